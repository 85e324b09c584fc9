"""gpt-oss's folders: experts in MXFP4, transposed, gate and up in turns."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tiny_experts
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.model.write_packed import write_packed
from stepping import load, logits_of
from tiny_experts import write_folder

TOKENS = list(range(40))
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
MXFP4_VALUES = np.array([*E2M1, *(-value for value in E2M1)], np.float32)

OSS = {
    **{k: v for k, v in tiny_experts.hf_config().items() if "expert" not in k and "moe" not in k},
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "intermediate_size": 96,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 16,
}
QUANTIZED = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []}}


def oss_tensors(rng: np.random.Generator) -> tiny.Weights:
    """All but the matrices of the experts."""
    sizes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (320, 64),
        "lm_head.weight": (320, 64),
        "model.norm.weight": (64,),
    }
    for i in range(3):
        layer = f"model.layers.{i}."
        for name, (rows, columns) in {
            "q": (128, 64),
            "k": (64, 64),
            "v": (64, 64),
            "o": (64, 128),
        }.items():
            sizes[f"{layer}self_attn.{name}_proj.weight"] = (rows, columns)
            sizes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        sizes |= {
            f"{layer}self_attn.sinks": (4,),
            f"{layer}input_layernorm.weight": (64,),
            f"{layer}post_attention_layernorm.weight": (64,),
            f"{layer}mlp.router.weight": (4, 64),
            f"{layer}mlp.router.bias": (4,),
            f"{layer}mlp.experts.gate_up_proj_bias": (4, 192),
            f"{layer}mlp.experts.down_proj_bias": (4, 64),
        }
    return {
        name: (
            (rng.standard_normal(shape) / 8).astype(np.float32).view(np.uint32) & 0xFFFF0000
        ).view(np.float32)
        for name, shape in sizes.items()
    }


def mxfp4_tensors(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], tiny.Weights]:
    """(blocks and scales, the values that they stand for, transposed as an unquantized folder has
    them)."""
    stored: dict[str, np.ndarray] = {}
    plain: tiny.Weights = {}
    for i in range(3):
        for product, rows, columns in (("gate_up_proj", 192, 64), ("down_proj", 64, 96)):
            name = f"model.layers.{i}.mlp.experts.{product}"
            codes = rng.integers(0, 16, (4, rows, columns // 32, 32))
            scales = rng.integers(122, 126, (4, rows, columns // 32))
            values = MXFP4_VALUES[codes] * np.exp2(scales - 127.0)[..., None]
            stored[name + "_blocks"] = (codes[..., ::2] | codes[..., 1::2] << 4).astype(np.uint8)
            stored[name + "_scales"] = scales.astype(np.uint8)
            plain[name] = values.reshape(4, rows, columns).transpose(0, 2, 1).astype(np.float32)
    return stored, plain


def write_with_bytes(folder: Path, floats: tiny.Weights, others: dict[str, np.ndarray]) -> Path:
    """As write_folder, with uint8 tensors beside."""
    from safetensors.numpy import save_file

    write_folder(folder, {}, OSS | QUANTIZED)
    contiguous = {name: np.ascontiguousarray(v) for name, v in (floats | others).items()}
    save_file(contiguous, folder / "model.safetensors")
    return folder


@pytest.fixture
def quantized() -> tuple[tiny.Weights, dict[str, np.ndarray], tiny.Weights]:
    rng = np.random.default_rng(11)
    return oss_tensors(rng), *mxfp4_tensors(rng)


def test_a_folder_in_mxfp4_has_the_values_that_it_stands_for(
    tmp_path: Path, quantized: tuple[tiny.Weights, dict[str, np.ndarray], tiny.Weights]
) -> None:
    floats, stored, plain = quantized
    path = write_with_bytes(tmp_path / "mxfp4", floats, stored)
    other = write_folder(tmp_path / "plain", floats | plain, OSS)
    with open_checkpoint(path) as mxfp4, open_checkpoint(other) as unquantized:
        assert mxfp4.tensors["layers.1.w_gate_experts"].format == "mxfp4"
        gate = plain["model.layers.2.mlp.experts.gate_up_proj"].transpose(0, 2, 1)[:, ::2]
        for each in (mxfp4, unquantized):
            np.testing.assert_array_equal(each.tensors["layers.2.w_gate_experts"].float32(), gate)
        for name, tensor in unquantized.tensors.items():
            np.testing.assert_array_equal(tensor.float32(), mxfp4.tensors[name].float32(), name)
    want = logits_of(load(other, compute="float32"), TOKENS)
    np.testing.assert_array_equal(logits_of(load(path, compute="float32"), TOKENS), want)
    assert float(want.std()) > 0.1
    # Kernels compute it as it is.
    got = logits_of(load(path), TOKENS)
    assert np.abs(got - want).mean() < 0.05 * want.std()


def test_a_packed_file_keeps_it(
    tmp_path: Path, quantized: tuple[tiny.Weights, dict[str, np.ndarray], tiny.Weights]
) -> None:
    floats, stored, _ = quantized
    folder = write_with_bytes(tmp_path / "mxfp4", floats, stored)
    write_packed(str(folder), str(tmp_path / "m.pyro"))
    with open_checkpoint(folder) as one, open_checkpoint(tmp_path / "m.pyro") as other:
        assert other.tensors["layers.1.w_down_experts"].format == "mxfp4"
        for name, tensor in one.tensors.items():
            assert tensor.format == other.tensors[name].format, name
            np.testing.assert_array_equal(tensor.float32(), other.tensors[name].float32(), name)
    np.testing.assert_array_equal(
        logits_of(load(folder), TOKENS), logits_of(load(tmp_path / "m.pyro"), TOKENS)
    )


@pytest.mark.oracle
def test_the_converter_makes_the_same_bytes_of_it(
    tmp_path: Path, quantized: tuple[tiny.Weights, dict[str, np.ndarray], tiny.Weights]
) -> None:
    """llama.cpp's converter, of which PYROCLAST_CONVERTER_PYTHON has the package."""
    python = os.environ.get("PYROCLAST_CONVERTER_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_CONVERTER_PYTHON names no Python")
    floats, stored, _ = quantized
    folder, path = write_with_bytes(tmp_path / "hf", floats, stored), tmp_path / "m.gguf"
    script = Path(__file__).parents[1] / "peers" / "convert_folder.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, str(script), str(folder), str(path), "f32"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with open_checkpoint(path) as theirs, open_checkpoint(folder) as ours:
        assert theirs.tensors.keys() == ours.tensors.keys()
        assert theirs.tensors["layers.0.w_down_experts"].format == "mxfp4"
        for name, tensor in theirs.tensors.items():
            np.testing.assert_array_equal(tensor.rows(), ours.tensors[name].rows(), name)
        assert [s.ffn for s in theirs.config.layers] == [s.ffn for s in ours.config.layers]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.layers.1.mlp.experts.down_proj_scales"), "_scales' is missing"),
        (
            lambda t: t.update(
                {"model.layers.1.mlp.experts.down_proj_scales": np.zeros((4, 64, 2), np.uint8)}
            ),
            r"down_proj_blocks' of an MXFP4 weight must be U8 of shape \(4, 64, 2, 16\)",
        ),
        (
            lambda t: t.update(
                {
                    "model.layers.1.mlp.experts.down_proj_blocks": np.zeros(
                        (4, 64, 3, 16), np.float32
                    )
                }
            ),
            "must be U8 of shape .* got F32",
        ),
        (
            lambda t: t.update(
                {
                    "model.layers.0.mlp.experts.down_proj_blocks": np.zeros(
                        (4, 64, 4, 16), np.uint8
                    ),
                    "model.layers.0.mlp.experts.down_proj_scales": np.zeros((4, 64, 4), np.uint8),
                }
            ),
            r"has shape \(4, 64, 128\); the config calls for \(4, 64, 96\)",
        ),
    ],
)
def test_mxfp4_that_does_not_fit_is_named(
    tmp_path: Path,
    quantized: tuple[tiny.Weights, dict[str, np.ndarray], tiny.Weights],
    change: Callable[[dict[str, np.ndarray]], Any],
    words: str,
) -> None:
    floats, stored, _ = quantized
    change(stored)
    with pytest.raises(ModelFileError, match=words):
        open_checkpoint(write_with_bytes(tmp_path / "bad", floats, stored))


def test_other_quantizations_are_refused(tmp_path: Path) -> None:
    config = OSS | {"quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(UnsupportedModelError, match="quantization_config"):
        open_checkpoint(write_folder(tmp_path / "fp8", {}, config))
