"""The tables of every family: complete for the tensors, and each key changes what is read."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pyroclast.errors import ModelFileError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.families.tensors import template_of, tensor_shapes
from pyroclast.files.gguf_metadata import Metadata

# Field -> its value in config.json, and another one; None leaves the key out.
HF_VALUES: dict[str, tuple[Any, Any]] = {
    "n_layers": (6, 7),
    "n_heads": (6, 2),
    "n_kv_heads": (2, 3),
    "head_dim": (16, 24),
    "d_model": (96, 192),
    "d_ff": (160, 128),
    "vocab_size": (320, 352),
    "max_seq_len": (1024, 2048),
    "rope_theta": (1e4, 1e5),
    "window_rope_theta": (100.0, 200.0),
    "norm_eps": (1e-5, 1e-6),
    "tie_embeddings": (False, True),
    "qkv_bias": (False, True),
    "o_bias": (False, True),
    "ffn_bias": (False, True),
    "activation": ("silu", "relu"),
    "sliding_window": (50, 60),
    "windowed": (None, ["full_attention", "full_attention", "sliding_attention"] * 2),
    "max_window_layers": (2, 1),
    "no_rope_layers": (None, [1, 0, 0, 1, 1, 1]),
    "no_rope_layer_interval": (2, 3),
    "query_pre_attn_scalar": (24, 40),
    "attention_softcap": (2.0, 3.0),
    "logit_softcap": (2.0, 3.0),
    "sliding_window_pattern": (2, 3),
    "attention_multiplier": (0.2, 0.3),
    "embedding_multiplier": (2.0, 3.0),
    "residual_multiplier": (0.2, 0.3),
    "logits_scaling": (2.0, 3.0),
    "scale_attn_weights": (True, False),
    "scale_attn_by_inverse_layer_idx": (False, True),
    "has_experts": (True, False),
    "n_experts": (0, 4),
    "position_embedding_type": ("rope", "nope"),
    "temperature_beta": (0.1, 0.2),
    "n_active": (2, 3),
    "d_expert": (64, 48),
    "renormalizes": (True, False),
    "dense_layers": ([2], [1]),
    "sparse_step": (1, 2),
    "swiglu_limit": (7.0, 5.0),
    "recurrent": (None, ["conv", "full_attention", "full_attention"] * 2),
    "attention_layers": ([1, 3], [2]),
    "conv_width": (3, 4),
    "attention_interval": (3, 2),
    "k_head_dim": (16, 8),
    "v_head_dim": (16, 8),
    "v_dim": (96, 48),
    "n_k_heads": (2, 3),
    "n_v_heads": (6, 12),
    "n_draft_layers": (0, 3),
    "n_dense_layers": (2, 3),
    "experts_scale": (1.0, 2.0),
    "selects_with_bias": (True, False),
    "adjusts_d_ff": (True, False),
    "d_ff_multiple": (32, 48),
    "d_ff_multiplier": (1.0, 2.0),
    "d_shared": (48, 64),
    "n_ssm_heads": (6, 12),
    "n_ssm_groups": (2, 3),
    "ssm_head_dim": (32, 16),
    "ssm_dim": (192, 96),
    "d_state": (16, 8),
    "conv_bias": (True, False),
    "expand": (2, 3),
    "dt_limits": ([0.0, math.inf], [0.1, 0.2]),
    "layer_kinds": (None, ["mlp", "mamba", "attention"] * 2),
    "layer_pattern": ("M-*M-*", "M-**-M"),
    "n_expert_groups": (1, 2),
    "d_latent": (None, 32),
    "whole_head_dim": (32, 48),
    "whole_n_kv_heads": (1, 3),
    "stated_layers": (None, {"5": {"head_dim": 48}}),
    "keys_are_values": (True, False),
    "n_sharing_layers": (1, 2),
    "doubles_d_ff": (True, False),
    "layer_input_width": (32, 0),
    "layer_input_rows": (400, 500),
    "rotary_share": (0.25, 0.5),
    "rope_kind": ("proportional", "linear"),
    "window_rotary_dim": (16, 8),
    "n_streams": (4, 3),
    "active_stream": (0, 1),
    "scales_streams": (True, False),
    "laurel_rank": (64, 32),
    "sparsity": ([0.95] * 6, [0.5] * 6),
}
EXPERTS = (
    "gemma4_text", "gpt_oss", "granitehybrid", "granitemoe", "granitemoeshared", "lfm2_moe",
    "nemotron_h_moe", "qwen3_moe",
)  # fmt: skip
SHARES_CACHES = ("gemma3n_text", "gemma4_text")
GGUF_VALUES = {
    **HF_VALUES,
    "windowed": (None, [False, False, True] * 2),
    "recurrent": (None, [True, False, False] * 2),
    "rotates": (True, False),
    "gating": (2, 1),
    "deviations": ([1.5] * 6, [1.5] * 5 + [-math.inf]),
}
BIASES = {"blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_down.bias"}


def hf_object(family: Family) -> dict[str, Any]:
    """A config.json that names every key of the family."""
    values = {field: HF_VALUES[field][0] for field in {**family.hf_keys, **family.hf_rope_keys}}
    if family.name == "granitehybrid":
        values |= {"recurrent": ["mamba", "mamba", "attention"] * 2}
    if family.name == "nemotron_h_moe":
        values |= {"layer_pattern": "ME*M-*"}
    if family.name in EXPERTS:
        values["n_experts"] = 8
    if family.name in SHARES_CACHES:
        values["windowed"] = ["full_attention", "sliding_attention"] * 3
    if family.name == "lfm2_moe":
        values["recurrent"] = ["conv", "full_attention"] * 3
    rope = {"rope_type": "linear", "factor": 2.0}
    rope |= {key: values.pop(field) for field, key in family.hf_rope_keys.items()}
    found = {key: values[field] for field, key in family.hf_keys.items()}
    found = {key: value for key, value in found.items() if value is not None}
    if family.name == "granitemoehybrid":
        found |= {"layer_types": ["attention"] * 6, "num_local_experts": 0}
    switch = {} if family.hf_window_key is None else {family.hf_window_key: True}
    return {"model_type": family.hf_model_type, "rope_parameters": rope, **found, **switch}


def read_hf(config: dict[str, Any]) -> ModelConfig:
    return config_of(hyperparameters_from_hf(config, {}))


def read_gguf(family: Family, values: dict[str, Any], *tensors: str) -> ModelConfig:
    """values by field."""
    prefix = f"{family.gguf_architecture}."
    found = {prefix + key: values[field] for field, key in family.gguf_keys.items()}
    found = {key: value for key, value in found.items() if value is not None}
    metadata = Metadata({"general.architecture": family.gguf_architecture, **found})
    tensors += ("blk.2.ffn_gate.weight",)  # in families with experts, of a layer without
    return config_of(hyperparameters_from_gguf(metadata, tensors=set(tensors), vectors={}))


HF_FIELDS = [(family, field) for family in FAMILIES.values() for field in family.hf_keys]
HF_ROPE_FIELDS = [(family, field) for family in FAMILIES.values() for field in family.hf_rope_keys]
GGUF_FIELDS = [
    (family, field)
    for family in FAMILIES.values()
    if family.gguf_architecture is not None
    for field in family.gguf_keys
]


def name_of(value: object) -> str:
    return value.name if isinstance(value, Family) else str(value)


def check_differs(read: Any, before: ModelConfig) -> None:
    try:
        after = read()
    except ModelFileError:
        return  # read, and found not to fit the rest
    assert after != before


@pytest.mark.parametrize(("family", "field"), HF_FIELDS, ids=name_of)
def test_every_key_of_config_json_changes_the_config(family: Family, field: str) -> None:
    config = hf_object(family)
    changed = config | {family.hf_keys[field]: HF_VALUES[field][1]}
    check_differs(lambda: read_hf(changed), read_hf(config))


@pytest.mark.parametrize(("family", "field"), HF_ROPE_FIELDS, ids=name_of)
def test_every_key_of_the_rope_parameters_changes_the_config(family: Family, field: str) -> None:
    config = hf_object(family)
    other = {family.hf_rope_keys[field]: HF_VALUES[field][1]}
    changed = config | {"rope_parameters": config["rope_parameters"] | other}
    assert read_hf(changed) != read_hf(config)


@pytest.mark.parametrize(("family", "field"), GGUF_FIELDS, ids=name_of)
def test_every_key_of_gguf_changes_the_config(family: Family, field: str) -> None:
    values = {name: GGUF_VALUES[name][0] for name in family.gguf_keys}
    values |= {"n_experts": 8} if family.name in EXPERTS else {}
    listed = family.name.startswith("lfm2") or family.name == "granitehybrid"
    values |= {"n_kv_heads": [0, 2] * 3} if listed else {}
    if family.parts_alone:
        values |= {"n_kv_heads": [0, 0, 2] * 2, "d_ff": [0, 64, 0] * 2}
    values |= {"windowed": [False, True] * 3} if family.name in SHARES_CACHES else {}
    changed = values | {field: GGUF_VALUES[field][1]}
    check_differs(lambda: read_gguf(family, changed), read_gguf(family, values))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=name_of)
def test_tables_cover_every_tensor(family: Family) -> None:
    config = hf_object(family)
    flags = ("qkv_bias", "o_bias", "ffn_bias")
    config |= {family.hf_keys[flag]: True for flag in flags if flag in family.hf_keys}
    templates = {template_of(name)[0] for name in tensor_shapes(read_hf(config))}
    for names, fused in (
        (family.hf_tensors, family.hf_fused),
        (family.gguf_tensors, family.gguf_fused),
    ):
        if family.gguf_architecture is None and names is family.gguf_tensors:
            continue  # written as another family
        parts = {
            f"layers.{{i}}.{part}" if "{i}" in key else part
            for key, each in fused.items()
            for part in each
        }
        assert templates <= set(names) | parts
        # Experts may lie one by one, or all in a tensor; of GGUF files gate and up, too.
        apart = ("{e}", "_exps.weight")
        assert not parts & {
            name for name, each in names.items() if not any(kind in each for kind in apart)
        }
        assert len({*names.values(), *fused}) == len(names) + len(fused)
    assert family.gguf_paired <= {name.rpartition(".")[2] for name in family.gguf_tensors}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=name_of)
def test_a_key_that_no_table_names_changes_nothing(family: Family) -> None:
    config = hf_object(family)
    known = {*family.hf_keys.values(), *family.hf_allowed, family.hf_window_key}
    others = {
        "layer_types": ["sliding_attention"] * 6,
        "sliding_window": 7,
        "use_sliding_window": False,
        "max_window_layers": 0,
        "sliding_window_pattern": 2,
        "no_rope_layer_interval": 1,
        "attn_logit_softcapping": 1.0,
        "logits_scaling": 9.0,
        "norm_epsilon": 0.5,
        "attention_bias": True,
    }
    unknown = {key: value for key, value in others.items() if key not in known}
    assert len(unknown) >= 5
    assert read_hf(config | unknown) == read_hf(config)


def test_gguf_biases_are_those_that_the_file_has() -> None:
    family = FAMILIES["llama"]
    values = {name: GGUF_VALUES[name][0] for name in family.gguf_keys}
    for name in BIASES:
        assert read_gguf(family, values, name) != read_gguf(family, values)
