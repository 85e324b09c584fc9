"""Keys of config.json and of GGUF metadata: one that a family does not read changes nothing; one
that it reads is understood, or refused with an error of ours, whatever its value is.

Which keys a family reads, the config classes of transformers say.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pytest

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.files.gguf_metadata import Metadata

transformers = pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

SIZES = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 0,
}
_GPT2 = {"n_embd": 96, "n_layer": 4, "n_head": 6, "n_positions": 1024, "n_ctx": 1024}
SIZES_OF = {
    "gpt2": _GPT2 | {name: SIZES[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")},
    "gemma3n_text": SIZES | {"num_kv_shared_layers": 0},
    "granitemoehybrid": SIZES
    | {"layer_types": ["attention"] * 4, "mamba_n_heads": 8, "num_local_experts": 0},
    "granitehybrid": SIZES
    | {"layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 8, "num_local_experts": 5},
    "nemotron_h": SIZES
    | {"layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"]},
    "nemotron_h_moe": SIZES
    | {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
    **{
        name: SIZES | {"num_local_experts": 8, "num_experts_per_tok": 2}
        for name in ("qwen3_moe", "gpt_oss", "granitemoe", "granitemoeshared")
    },
}
# What some family reads; each changes what that family computes.
KEYS: dict[str, Any] = {
    "attention_bias": True,
    "mlp_bias": True,
    "use_bias": False,
    "use_sliding_window": False,
    "sliding_window": 8,
    "max_window_layers": 1,
    "layer_types": ["sliding_attention"] * 4,
    "sliding_window_pattern": 2,
    "no_rope_layers": [0, 1, 0, 1],
    "no_rope_layer_interval": 2,
    "rope_local_base_freq": 100.0,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "query_pre_attn_scalar": 3,
    "embedding_multiplier": 2.0,
    "logits_scaling": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.1,
    "hidden_act": "relu",
    "hidden_activation": "relu",
    "activation_function": "relu",
    "n_inner": 64,
    "scale_attn_by_inverse_layer_idx": True,
    "scale_attn_weights": False,
    "num_local_experts": 4,
    "position_embedding_type": "rope",
    "norm_epsilon": 0.1,
    "rms_norm_eps": 0.1,
    "layer_norm_epsilon": 0.1,
    "use_bidirectional_attention": True,
    # Of other families than ours.
    "qk_layernorm": True,
    "clip_qkv": 1.0,
    "logit_scale": 0.5,
    "use_qk_norm": True,
    "attn_temperature_tuning": True,
}
# Values that no key has.
BAD = (
    "x", "", [], {}, [1, 2], [None], -1, 0, 7, 1.5, -0.0, True, 2**70, 10**400, 1e308,
    math.nan, math.inf, -math.inf, {"a": 1}, ["sliding_attention"] * 5, [[]],
)  # fmt: skip


def family_config(family: Family) -> tuple[frozenset[str], dict[str, Any]]:
    """(the keys that transformers' class of this family declares, a config.json that it writes)."""
    return _family_config(family.hf_model_type, family.name)


@cache
def _family_config(model_type: str, name: str) -> tuple[frozenset[str], dict[str, Any]]:
    sizes = SIZES_OF.get(name, SIZES_OF.get(model_type, SIZES))
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    declared = {field.name for field in dataclasses.fields(type(config))}
    also = {*config.attribute_map, *config.attribute_map.values()}
    return frozenset(declared | also), json.loads(config.to_json_string(use_diff=False))


def read_hf(config: dict[str, Any]) -> ModelConfig:
    return config_of(hyperparameters_from_hf(config, {}))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_key_of_another_family_changes_nothing(family: Family) -> None:
    declared, config = family_config(family)
    without = read_hf(config)
    for key in KEYS.keys() - declared:
        assert read_hf(config | {key: KEYS[key]}) == without, key


@pytest.mark.parametrize("key", KEYS)
def test_some_family_reads_it(key: str) -> None:
    """Or the test above would test nothing."""
    known, changed = False, False
    for family in FAMILIES.values():
        declared, config = family_config(family)
        known = known or key in declared
        switches = (
            {"sliding_window": 16, family.hf_window_key: True} if family.hf_window_key else {}
        )
        lists = ("layer_types", "no_rope_layers")  # count before what else says so of layers
        for left_out in ((), lists):
            base = {k: v for k, v in config.items() if k not in left_out} | switches
            before = read_hf(base)
            try:
                changed = changed or read_hf(base | {key: KEYS[key]}) != before
            except UnsupportedModelError:
                changed = True
    assert changed or not known


def keys_of(family: Family) -> list[str]:
    switches = [] if family.hf_window_key is None else [family.hf_window_key]
    return [*dict.fromkeys((*family.hf_keys.values(), *family.hf_allowed, *switches))]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_any_value_of_any_key_is_read_or_refused(family: Family) -> None:
    _, config = family_config(family)
    rope = config.get("rope_parameters") or {}
    for value in BAD:
        for key in (*keys_of(family), "bos_token_id", "eos_token_id", "partial_rotary_factor"):
            read_or_refused(config | {key: value}, f"{key}={value!r}")
        for key in ("rope_parameters", "rope_scaling"):
            read_or_refused(config | {"rope_parameters": None, key: value}, f"{key}={value!r}")
        for kind in ("linear", "dynamic", "llama3", "yarn", "longrope", "default", value):
            for key in (*ROPE_KEYS, *family.hf_rope_keys.values()):
                scaling = rope | ROPE_VALUES | {"rope_type": kind, key: value}
                read_or_refused(config | {"rope_parameters": scaling}, f"{kind} {key}={value!r}")


ROPE_VALUES = {
    "factor": 2.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0] * 8,
}
ROPE_KEYS = (
    *ROPE_VALUES, "rope_theta", "partial_rotary_factor", "attention_factor", "beta_fast",
    "beta_slow", "mscale", "mscale_all_dim", "truncate", "full_attention", "sliding_attention",
)  # fmt: skip


def read_or_refused(
    config: dict[str, Any], what: str, read: Callable[[dict[str, Any]], ModelConfig] = read_hf
) -> None:
    """Any error but ours fails; the failure has the whole config."""
    try:
        with suppress(ModelFileError):
            read(config)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}; {config}") from error


# -- GGUF metadata ---------------------------------------------------------------------------

GGUF_SIZES = {
    "n_layers": 4,
    "n_heads": 6,
    "n_kv_heads": 2,
    "d_model": 96,
    "d_ff": 160,
    "vocab_size": 320,
    "max_seq_len": 1024,
    "norm_eps": 1e-5,
    "sliding_window": 8,
    "n_experts": 8,
    "n_active": 2,
    "d_expert": 64,
    "n_ssm_heads": 8,
    "n_ssm_groups": 2,
    "d_state": 16,
    "ssm_dim": 128,
}
# Of families whose layers are a mixer or a feed-forward alone.
ALONE = {"n_kv_heads": [0, 0, 2, 0], "d_ff": [0, 160, 0, 160]}
_SCALING = ("type", "factor", "original_context_length", "attn_factor", "yarn_log_multiplier")
GGUF_KEYS = (
    "expert_count", "attention.value_length", "rope.dimension_count", "rope.scale_linear",
    *(f"rope.scaling.{key}" for key in _SCALING),
)  # fmt: skip
IN_FILES = [family for family in FAMILIES.values() if family.gguf_architecture is not None]


@pytest.mark.parametrize("family", IN_FILES, ids=lambda family: family.name)
def test_any_value_of_any_key_of_a_gguf_is_read_or_refused(family: Family) -> None:
    prefix = f"{family.gguf_architecture}."
    known = GGUF_SIZES | (ALONE if family.parts_alone else {})
    sizes = {prefix + key: known.get(field) for field, key in family.gguf_keys.items()}
    base = {key: value for key, value in sizes.items() if value is not None}
    base["general.architecture"] = family.gguf_architecture
    assert read_gguf(base).n_layers == 4
    for value in (*BAD, "linear", "yarn", [True] * 4, b"x"):
        for key in (*family.gguf_keys.values(), *GGUF_KEYS):
            for scaling in ({}, {"type": "linear"}, {"type": "yarn", "factor": 2.0}):
                given = {f"{prefix}rope.scaling.{name}": each for name, each in scaling.items()}
                read_or_refused(base | given | {prefix + key: value}, key, read_gguf)
        for name in ("bos_token_id", "eos_token_id", "eot_token_id"):
            key = f"tokenizer.ggml.{name}"
            read_or_refused(base | {key: value}, key, read_gguf)


def read_gguf(values: dict[str, Any]) -> ModelConfig:
    metadata = Metadata(values, None)  # type: ignore[arg-type]
    return config_of(hyperparameters_from_gguf(metadata, tensors={"output.weight"}, vectors={}))
