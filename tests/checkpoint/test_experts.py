"""Weights of experts as files have them: one by one, or stacked; and files that lie about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tiny_experts
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.stacks import AlternatingRows, StackedRows
from pyroclast.checkpoint.tensor import Scratch
from pyroclast.errors import ModelFileError
from stepping import load, logits_of

TOKENS = list(range(40))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_for_each_expert_or_one_for_all(tmp_path: Path, stacked: bool, dtype: str) -> None:
    weights = tiny_experts.weights()
    tensors = tiny_experts.hf_tensors(weights, stacked=stacked)
    folder = tiny_experts.write_folder(tmp_path / "hf", tensors, tiny_experts.hf_config(), dtype)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.tensors.keys() == weights.keys()
        for name, values in weights.items():
            np.testing.assert_array_equal(checkpoint.tensors[name].float32(), values, name)
    path = tiny_experts.write_gguf(tmp_path / "m.gguf", weights)
    want = logits_of(load(path, compute="float32"), TOKENS)
    np.testing.assert_array_equal(logits_of(load(folder, compute="float32"), TOKENS), want)


def test_any_run_of_rows_is_that_of_the_whole(tmp_path: Path) -> None:
    tensors = tiny_experts.hf_tensors(tiny_experts.weights(), stacked=False)
    folder = tiny_experts.write_folder(tmp_path / "hf", tensors, tiny_experts.hf_config())
    with open_checkpoint(folder) as checkpoint:
        gate, up = (checkpoint.tensors[f"layers.1.w_{each}_experts"] for each in ("gate", "up"))
        whole = gate.rows()
        assert isinstance(gate.source, StackedRows) and whole.shape == (12 * 32, 4 * 64)
        for first, last in ((0, 1), (5, 32), (31, 33), (20, 200), (383, 384)):
            np.testing.assert_array_equal(gate.rows(first, last), whole[first:last])
        # Padded to 48 rows: experts' gate, their up, the next one's gate, ...
        both = AlternatingRows([gate.source, up.source], 32, 48, 4 * 64)
        rows = both.rows(0, 12 * 96, Scratch())
        parts = rows.reshape(12, 2, 48, -1)
        np.testing.assert_array_equal(parts[:, 0, :32].reshape(384, -1), whole)
        np.testing.assert_array_equal(parts[:, 1, :32].reshape(384, -1), up.rows())
        assert not parts[:, :, 32:].any()
        for first, last in ((0, 16), (32, 48), (40, 100), (1000, 1152)):
            np.testing.assert_array_equal(both.rows(first, last, Scratch()), rows[first:last])


@pytest.mark.parametrize("format", ["q8_0", "q4_0", "bf16"])
def test_experts_are_converted_at_load_and_routers_are_not(tmp_path: Path, format: str) -> None:
    tensors = tiny_experts.hf_tensors(tiny_experts.weights(), stacked=False)
    folder = tiny_experts.write_folder(tmp_path / "hf", tensors, tiny_experts.hf_config())
    with open_checkpoint(f"{folder}@{format}") as checkpoint:
        found = {name.rpartition(".")[2]: t.format for name, t in checkpoint.tensors.items()}
    assert found["w_gate_experts"] == found["w_down_experts"] == found["wq"] == format
    assert found["w_router"] == found["ffn_norm"] == "f32"
    path = tiny_experts.write_gguf(tmp_path / "m.gguf", tiny_experts.weights(), format.upper())
    want = logits_of(load(path), TOKENS)
    np.testing.assert_array_equal(logits_of(load(f"{folder}@{format}"), TOKENS), want)


# ---- files that lie -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expert_count": 0}, r"n_experts must be a whole number in 1\.\.4096, got 0"),
        ({"expert_count": -12}, r"n_experts must be a whole number in 1\.\.4096, got -12"),
        ({"expert_count": 2**40}, "n_experts must be a whole number"),
        ({"expert_count": 4096}, r"'blk.0.ffn_gate_inp.weight' has shape|'blk.0.ffn_gate_exps"),
        ({"expert_used_count": 13}, r"n_active \(experts of a token\) must be .* 1\.\.12, got 13"),
        ({"expert_used_count": 0}, "n_active"),
        ({"expert_used_count": -1}, "n_active"),
        ({"expert_count": None}, "'qwen3moe.expert_count' is missing"),
        ({"expert_used_count": None}, "'qwen3moe.expert_used_count' is missing"),
        ({"expert_feed_forward_length": 0}, "d_ff must be"),
        ({"expert_feed_forward_length": 33}, r"has shape \(12, 32, 64\); .* \(12, 33, 64\)"),
    ],
)
def test_a_gguf_with_other_sizes_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tiny_experts.write_gguf(tmp_path / "m.gguf", tiny_experts.weights(), "F32", changes)
    with pytest.raises(ModelFileError, match=words):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 0}, "n_experts must be"),
        ({"num_local_experts": 11}, "num_experts and num_local_experts must be the same, got 12"),
        ({"num_experts_per_tok": 13}, r"n_active .* in 1\.\.12, got 13"),
        ({"num_experts": 13}, r"tensor 'model\.layers\.0\.mlp\.(gate|experts\.12)"),
        ({"moe_intermediate_size": -1}, "d_ff must be"),
        ({"norm_topk_prob": 1}, "renormalizes must be true or false"),
        ({"mlp_only_layers": ["x"]}, "mlp_only_layers must be a list of layer numbers"),
        ({"mlp_only_layers": [1]}, r"'model\.layers\.1\.mlp\.gate_proj\.weight' is missing"),
        ({"decoder_sparse_step": 0}, "sparse_step must be"),
    ],
)
def test_a_config_json_that_lies_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    tensors = tiny_experts.hf_tensors(tiny_experts.weights(), stacked=False)
    folder = tiny_experts.write_folder(tmp_path / "hf", tensors, tiny_experts.hf_config() | changes)
    with pytest.raises(ModelFileError, match=words):
        open_checkpoint(folder)


def test_an_expert_too_few_is_named(tmp_path: Path) -> None:
    tensors = tiny_experts.hf_tensors(tiny_experts.weights(), stacked=False)
    del tensors["model.layers.2.mlp.experts.7.up_proj.weight"]
    folder = tiny_experts.write_folder(tmp_path / "hf", tensors, tiny_experts.hf_config())
    with pytest.raises(ModelFileError, match=r"experts\.7\.up_proj\.weight' is missing"):
        open_checkpoint(folder)


def test_both_names_of_the_number_of_experts_are_read(tmp_path: Path) -> None:
    tensors = tiny_experts.hf_tensors(tiny_experts.weights(), stacked=False)
    config = tiny_experts.hf_config()
    config["num_local_experts"] = config.pop("num_experts")
    with open_checkpoint(tiny_experts.write_folder(tmp_path / "hf", tensors, config)) as checkpoint:
        experts = checkpoint.config.layers[0].ffn.experts
    assert experts is not None and experts.n_experts == 12


def dense_second(weights: tiny.Weights) -> tiny.Weights:
    """Layer 1 with one feed-forward for all tokens."""
    found = {name: v for name, v in weights.items() if not name.startswith("layers.1.w_router")}
    for part in ("gate", "up", "down"):
        stack = found.pop(f"layers.1.w_{part}_experts")
        wide = stack[:3]
        joined = np.concatenate(list(wide), axis=1 if part == "down" else 0)
        found[f"layers.1.w_{part}"] = joined
    return found


def test_a_gguf_s_tensors_tell_which_layers_are_dense(tmp_path: Path) -> None:
    weights = dense_second(tiny_experts.weights())
    path = tiny_experts.write_gguf(tmp_path / "m.gguf", weights)
    with open_checkpoint(path) as checkpoint:
        has_experts = [spec.ffn.experts is not None for spec in checkpoint.config.layers]
    assert has_experts == [True, False, True]
    model = load(path, compute="float32")
    want = logits_of(load(path, compute="float32", kernels="*=numpy"), TOKENS)
    np.testing.assert_allclose(logits_of(model, TOKENS), want, atol=2e-5 * np.abs(want).max())
