"""Recurrent families read from files that lie, and from files with more than the text model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny_families
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.recurrent import GatedDeltaSpec, Mamba2Spec
from pyroclast.families.registry import config_of
from pyroclast.families.tensors import tensor_shapes
from pyroclast.files.gguf_metadata import Metadata

LFM2: dict[str, Any] = {
    "model_type": "lfm2",
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": 320,
    "layer_types": ["conv", "full_attention"] * 2,
}
QWEN3_5: dict[str, Any] = LFM2 | {
    "model_type": "qwen3_5_text",
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
GGUF: dict[str, Any] = {
    "block_count": 5,
    "context_length": 512,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "vocab_size": 320,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 16,
    "ssm.group_count": 2,
    "ssm.time_step_rank": 6,
    "ssm.inner_size": 96,
    "full_attention_interval": 2,
    "nextn_predict_layers": 1,
}


def read_hf(config: dict[str, Any]) -> ModelConfig:
    return config_of(hyperparameters_from_hf(config, {}))


def read_gguf(architecture: str = "qwen35", **changes: Any) -> ModelConfig:
    values = {f"{architecture}.{key}": value for key, value in (GGUF | changes).items()}
    metadata = Metadata({"general.architecture": architecture, **values})
    return config_of(hyperparameters_from_gguf(metadata, tensors=frozenset(), vectors={}))


def kinds(config: ModelConfig) -> list[bool]:
    return [spec.recurrent is not None for spec in config.layers]


def test_the_layers_are_those_of_the_file() -> None:
    assert kinds(read_hf(LFM2)) == kinds(read_hf(QWEN3_5)) == [True, False] * 2
    listed = {**LFM2, "layer_types": None, "full_attn_idxs": [0, 3]}
    assert kinds(read_hf(listed)) == [False, True, True, False]
    by_interval = {**QWEN3_5, "layer_types": None, "full_attention_interval": 3}
    assert kinds(read_hf(by_interval)) == [True, True, False, True]
    assert kinds(read_gguf()) == [True, False] * 2  # the fifth layer predicts further tokens
    heads = {"attention.head_count_kv": [0, 2, 0, 2, 0], "nextn_predict_layers": 0}
    assert kinds(read_gguf("lfm2", **heads)) == [True, False, True, False, True]


def test_gguf_files_order_value_heads_and_store_the_decay_itself() -> None:
    file, folder = (next(s.recurrent for s in c.layers) for c in (read_gguf(), read_hf(QWEN3_5)))
    assert isinstance(file, GatedDeltaSpec) and isinstance(folder, GatedDeltaSpec)
    assert (file.tiled, file.log_decay, file.v_head_dim) == (True, False, 16)
    assert (folder.tiled, folder.log_decay, folder.n_v_heads) == (False, True, 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"conv_L_cache": 1}, "width of the convolution must be at least 2, got 1"),
        ({"conv_L_cache": "3"}, "width of the convolution must be a whole number"),
        ({"conv_L_cache": 2**40}, "width of the convolution must be"),
        ({"layer_types": ["conv"] * 3}, "of 3 layers whether they are recurrent"),
        ({"layer_types": "conv"}, "layer_types must be a list of names"),
        ({"layer_types": ["conv", "rwkv"] * 2}, "rwkv are not supported; supported: full_att"),
        ({"layer_types": None, "full_attn_idxs": [1.5]}, "full_attn_idxs must be a list of layer"),
        ({"block_multiple_of": 0}, "block_multiple_of must be a whole number"),
        ({"block_ffn_dim_multiplier": -1.0}, "d_ff_multiplier must be"),
        ({"conv_bias": True}, "conv_bias True is not supported"),
    ],
)
def test_lfm2_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
        read_hf(LFM2 | changes)


def test_the_first_layers_have_no_experts_and_the_others_a_bias_of_the_choice() -> None:
    moe = {**LFM2, "model_type": "lfm2_moe", "num_dense_layers": 1}
    first, second, *_ = (spec.ffn.experts for spec in read_hf(moe).layers)
    assert first is None and second is not None
    assert (second.scoring, second.renormalize, second.selection_bias) == ("sigmoid", True, True)
    without = read_hf({**moe, "use_expert_bias": False}).layers[1].ffn.experts
    assert without is not None and not without.selection_bias
    assert "layers.1.b_selection" in tensor_shapes(read_hf(moe))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_dense_layers": -1}, r"num_dense_layers must be a whole number in 0\.\.4, got -1"),
        ({"num_dense_layers": True}, "num_dense_layers must be a whole number"),
        ({"num_experts": 0}, "n_experts must be a whole number"),
        ({"num_experts_per_tok": 33}, "n_active .* must be a whole number in 1..32"),
        ({"routed_scaling_factor": -1.0}, "experts_scale must be"),
        ({"use_expert_bias": 1}, "must be true or false"),
    ],
)
def test_lfm2_moe_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
        read_hf({**LFM2, "model_type": "lfm2_moe", **changes})


def test_a_gguf_file_s_scoring_is_one_of_two() -> None:
    experts = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}
    heads = {"attention.head_count_kv": [0, 2, 0, 2, 0], "nextn_predict_layers": 0}
    for number, scoring in ((1, "softmax"), (2, "sigmoid")):
        config = read_gguf("lfm2moe", **experts, **heads, expert_gating_func=number)
        found = config.layers[0].ffn.experts
        assert found is not None and found.scoring == scoring
    with pytest.raises(UnsupportedModelError, match="expert_gating_func must be 1"):
        read_gguf("lfm2moe", **experts, **heads, expert_gating_func=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"linear_num_value_heads": 0}, "value heads of linear attention must be"),
        ({"linear_num_value_heads": 24}, "must be a multiple of its 16 key heads, got 24"),
        ({"linear_num_key_heads": True}, "key heads of linear attention must be"),
        ({"linear_key_head_dim": 2**31}, "key head size of linear attention must be"),
        ({"linear_value_head_dim": -128}, "value head size of linear attention must be"),
        ({"layer_types": None, "full_attention_interval": 0}, "attention_interval must be"),
        ({"attention_bias": True}, "attention_bias True is not supported"),
    ],
)
def test_qwen3_5_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
        read_hf(QWEN3_5 | changes)


GRANITE: dict[str, Any] = LFM2 | {
    "model_type": "granitemoehybrid",
    "max_position_embeddings": 512,
    "layer_types": ["mamba", "attention"] * 2,
    "mamba_n_heads": 8,
    "mamba_n_groups": 2,
    "num_local_experts": 4,
}
NEMOTRON: dict[str, Any] = LFM2 | {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "M-*E",
    "layer_types": None,
    "mamba_num_heads": 8,
}
MAMBA_2_FILE: dict[str, Any] = {
    "block_count": 4,
    "attention.head_count_kv": [0, 2, 0, 2],
    "ssm.time_step_rank": 8,
    "ssm.inner_size": 128,
    "nextn_predict_layers": 0,
}


def test_granite_s_and_nemotron_s_layers() -> None:
    granite = read_hf(GRANITE)
    assert kinds(granite) == [True, False] * 2
    assert [spec.experts.shared_d_ff for spec in granite.layers if spec.experts] == [1024] * 4
    mixer = granite.layers[0].recurrent
    assert isinstance(mixer, Mamba2Spec)
    assert (mixer.head_dim, mixer.norm_width, mixer.dt_max) == (16, 64, math.inf)
    nemotron = read_hf(NEMOTRON)
    parts = [(spec.recurrent is not None, spec.has_attention) for spec in nemotron.layers]
    assert parts == [(True, False), (False, False), (False, True), (False, False)]
    assert [spec.experts is not None for spec in nemotron.layers] == [False] * 3 + [True]
    assert [spec.ffn is not None for spec in nemotron.layers] == [False, True] * 2
    file = read_gguf("granitehybrid", **MAMBA_2_FILE)
    assert kinds(file) == [True, False] * 2
    assert isinstance(found := file.layers[0].recurrent, Mamba2Spec)
    assert (found.log_decay, found.conv_bias, found.head_dim) == (False, False, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mamba_n_heads": 0}, "heads of Mamba 2 must be a whole number"),
        ({"mamba_n_heads": 7}, "values of Mamba 2 must be a multiple of its 7 heads, got 128"),
        ({"mamba_n_groups": 0}, "groups of Mamba 2 must be a whole number in 1..8, got 0"),
        ({"mamba_n_groups": 3}, "heads of Mamba 2 must be a multiple of its 3 groups, got 8"),
        ({"mamba_d_state": 2**31}, "state size of Mamba 2 must be"),
        ({"mamba_d_head": 32}, "that hold 128 values must have a size of 16, got 32"),
        ({"mamba_expand": -1}, "mamba_expand must be"),
        ({"mamba_d_conv": 1}, "width of the convolution must be at least 2, got 1"),
        ({"mamba_conv_bias": 1}, "conv_bias must be true or false, got 1"),
        ({"mamba_proj_bias": True}, "mamba_proj_bias True is not supported"),
        ({"time_step_limit": [0.2, 0.1]}, "largest step of Mamba 2 must be"),
        ({"time_step_limit": [0.2]}, "time_step_limit must be a list of two numbers"),
        ({"shared_intermediate_size": -1}, "width of the shared expert must be"),
        ({"shared_intermediate_size": 0.0}, "width of the shared expert must be"),
        ({"num_experts_per_tok": 5}, "n_active .* must be a whole number in 1..4"),
    ],
)
def test_granite_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
        read_hf(GRANITE | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hybrid_override_pattern": "M-*"}, "of 3 layers what they are, and that there are 4"),
        ({"hybrid_override_pattern": "M-*X"}, "layers of type 'X' are not supported"),
        ({"hybrid_override_pattern": 7}, "hybrid_override_pattern a text, got 7"),
        ({"hybrid_override_pattern": None}, "must say of each of the 4 layers what it is"),
        ({"layers_block_type": [[]] * 4}, r"layers of type \[\] are not supported"),
        ({"mamba_num_heads": 12}, "heads of Mamba 2 must be a multiple of its 8 groups, got 12"),
        ({"mamba_head_dim": 2**20}, "head size of Mamba 2 must be"),
        ({"n_group": 2}, "experts in 2 groups are not supported"),
        ({"moe_latent_size": 16}, "experts in a space of 16 dimensions"),
        ({"n_routed_experts": 0}, "n_experts must be a whole number"),
    ],
)
def test_nemotron_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
        read_hf(NEMOTRON | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ssm.inner_size": 130}, "values of Mamba 2 must be a multiple of its 8 heads, got 130"),
        ({"ssm.inner_size": 0}, "values of Mamba 2 must be"),
        ({"ssm.state_size": 1 << 40}, "state size of Mamba 2 must be"),
        ({"ssm.group_count": 0}, "groups of Mamba 2 must be a whole number in 1..8, got 0"),
        ({"ssm.time_step_rank": 0}, "heads of Mamba 2 must be"),
        ({"attention.head_count_kv": [0, 2, 0]}, "of 3 layers whether they are recurrent"),
    ],
)
def test_a_mamba_2_file_that_lies(changes: dict[str, Any], words: str) -> None:
    for architecture in ("granitehybrid", "nemotron_h"):
        ffn = {"feed_forward_length": [0, 0, 96, 0]} if architecture == "nemotron_h" else {}
        with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
            read_gguf(architecture, **(MAMBA_2_FILE | ffn | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ssm.inner_size": 97}, "must be a multiple of ssm.time_step_rank = 6"),
        ({"ssm.inner_size": 0}, "values of linear attention must be"),
        ({"ssm.time_step_rank": 0}, "value heads of linear attention must be"),
        ({"nextn_predict_layers": 9}, "nextn_predict_layers.* must be .* in 1..5, got 9"),
        ({"attention.recurrent_layers": [1, 0]}, "must be a list of truth values"),
        ({"attention.recurrent_layers": [True] * 3}, "of 3 layers whether they are recurrent"),
        ({"attention.head_count_kv": [0] * 5}, "must be the same in all layers"),
    ],
)
def test_a_file_that_lies(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=words):
        read_gguf(**changes)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_a_folder_with_eyes_and_a_drafting_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As Qwen publishes it: the text model among others, its sizes in text_config."""
    tiny_families.write_folder(tmp_path, "qwen3_5")
    with open_checkpoint(tmp_path) as checkpoint:
        want = checkpoint.config, {name: t.float32() for name, t in checkpoint.tensors.items()}
    tensors = load_file(tmp_path / "model.safetensors")
    nested = {
        name.replace("model.", "model.language_model.", 1): each for name, each in tensors.items()
    }
    nested["model.visual.patch_embed.weight"] = nested["mtp.fc.weight"] = np.ones((2, 2), "f4")
    save_file(nested, tmp_path / "model.safetensors")
    config = tiny_families.read_config(tmp_path)
    outer = {"model_type": "qwen3_5", "text_config": config, "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    caplog.set_level("INFO", "pyroclast")
    with open_checkpoint(tmp_path) as checkpoint:
        assert "1 tensors that predict further tokens are left out" in caplog.text
        assert checkpoint.config == want[0]
        for name, tensor in checkpoint.tensors.items():
            np.testing.assert_array_equal(tensor.float32(), want[1][name])
