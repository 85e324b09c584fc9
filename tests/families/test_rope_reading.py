"""Rotary positions as files of both formats state them: every spelling, and what cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.gguf_rope import FREQS, LONG, SHORT
from pyroclast.families.layer_spec import AttentionSpec
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import config_of
from pyroclast.families.rope import RopeScaling
from pyroclast.files.gguf_metadata import Metadata

SIZES = {
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "hidden_size": 96,
    "intermediate_size": 160,
    "vocab_size": 320,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
}
GGUF_SIZES = {
    "block_count": 8,
    "attention.head_count": 6,
    "attention.head_count_kv": 2,
    "embedding_length": 96,
    "feed_forward_length": 160,
    "vocab_size": 320,
    "context_length": 1024,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
}
FACTORS = tuple(1.0 + i for i in range(8))
LONGROPE = {"type": "longrope", "short_factor": list(FACTORS), "long_factor": list(FACTORS)}


def hf(model_type: str = "llama", **changes: Any) -> list[AttentionSpec]:
    """The attention of each layer; a change to None takes the key out."""
    config = {"model_type": model_type, **SIZES, **changes}
    config = {key: value for key, value in config.items() if value is not None}
    return [spec.attention for spec in config_of(hyperparameters_from_hf(config, {})).layers]


def scaling(model_type: str = "llama", **changes: Any) -> RopeScaling | None:
    rope = hf(model_type, **changes)[-1].rope
    assert rope is not None
    return rope.scaling


def gguf(
    arch: str = "llama", vectors: dict[str, tuple[float, ...]] | None = None, **changes: Any
) -> list[AttentionSpec]:
    """Changes name keys with __ for dots."""
    values = GGUF_SIZES | {key.replace("__", "."): value for key, value in changes.items()}
    found = {f"{arch}.{key}": value for key, value in values.items()}
    metadata = Metadata({"general.architecture": arch, **found})
    read = hyperparameters_from_gguf(metadata, tensors=(), vectors=vectors or {})
    return [spec.attention for spec in config_of(read).layers]


def gguf_scaling(*args: Any, **changes: Any) -> RopeScaling | None:
    rope = gguf(*args, **changes)[-1].rope
    assert rope is not None
    return rope.scaling


# ---- config.json ---------------------------------------------------------------------------


def test_yarn() -> None:
    rope = {"type": "yarn", "factor": 4.0, "beta_fast": 16.0, "mscale": 2.0, "truncate": False}
    want = RopeScaling(
        "yarn", 4.0, original_max_seq_len=256, beta_fast=16.0, mscale=2.0, truncate=False
    )
    rope["original_max_position_embeddings"] = 256
    assert scaling(rope_scaling=rope) == want
    new = {**rope, "rope_type": rope["type"], "rope_theta": 5000.0}
    assert scaling(rope_parameters=new, rope_theta=None) == want


def test_null_factor_is_the_ratio_of_the_contexts() -> None:
    rope = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 256}
    found = scaling(rope_scaling=rope)
    assert found is not None and found.factor == 4.0


def test_original_context_beside_the_rope_parameters_counts_first() -> None:
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}
    found = scaling(rope_scaling=rope, original_max_position_embeddings=512)
    assert found is not None and found.original_max_seq_len == 512
    del rope["original_max_position_embeddings"]
    found = scaling(rope_scaling=rope)
    assert found is not None and found.original_max_seq_len == 1024


def test_dynamic_is_about_the_whole_context() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 256}
    assert scaling(rope_scaling=rope) == RopeScaling("dynamic", 2.0, original_max_seq_len=1024)


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_longrope_under_its_names(kind: str) -> None:
    rope = LONGROPE | {"type": kind}
    found = scaling("phi3", rope_scaling=rope, original_max_position_embeddings=256)
    assert found == RopeScaling(
        "longrope",
        4.0,
        original_max_seq_len=256,
        short_factors=FACTORS,
        long_factors=FACTORS,
    )
    assert found.amplitude == math.sqrt(1 + math.log(4) / math.log(256))


def test_phi3_rotates_a_part() -> None:
    for changes in (
        {"partial_rotary_factor": 0.75},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}},
    ):
        rope = hf("phi3", **changes)[0].rope
        assert rope is not None and rope.rotary_dim == 12


def test_gemma3_has_two_bases() -> None:
    spelled = [
        hf("gemma3_text", rope_theta=2e5, rope_local_base_freq=300.0,
           rope_scaling={"rope_type": "linear", "factor": 8.0}),
        hf("gemma3_text", rope_theta=None, rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}),
    ]  # fmt: skip
    assert spelled[0] == spelled[1]
    ropes = [attention.rope for attention in spelled[0]]
    assert [rope.theta for rope in ropes if rope] == [300.0] * 5 + [2e5] + [300.0] * 2
    assert [rope.scaling is not None for rope in ropes if rope] == [i == 5 for i in range(8)]


def test_olmo3_stretches_full_layers_only() -> None:
    rope = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}
    layers = hf("olmo3", rope_scaling=rope)
    assert [each.rope.scaling is not None for each in layers if each.rope] == [
        (i + 1) % 4 == 0 for i in range(8)
    ]


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "yarn", "factor": 0}, "rope scaling factor must be a number"),
        ({"rope_type": "yarn", "factor": math.nan}, "rope scaling factor must be a number"),
        ({"rope_type": "yarn", "factor": "4"}, "rope scaling factor must be a number"),
        ({"rope_type": "yarn", "factor": 4.0, "beta_fast": -1}, "beta_fast must be a number"),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": 1}, "truncate must be true or false"),
        ({"rope_type": "dynamic"}, "'factor' is missing in the dynamic rope scaling"),
        ({"rope_type": "llama3", "factor": 4.0}, "'low_freq_factor' is missing in the llama3"),
        ({"rope_type": "longrope"}, "'short_factor' is missing in the longrope"),
        (LONGROPE | {"long_factor": "x"}, "long_factor must be a list of numbers, got 'x'"),
        (LONGROPE | {"long_factor": [1.0] * 7}, "long_factors must hold head_dim / 2 = 8 values"),
        (LONGROPE | {"short_factor": [math.nan] * 8}, "every value of rope scaling short_factors"),
        (LONGROPE | {"short_factor": [None] * 8}, "every value of rope scaling short_factors"),
        ({"full_attention": 3}, "full_attention must be an object, got 3"),
        ([1], r"rope_scaling must be an object, got \[1\]"),
        ({"rope_theta": "x"}, "rope_theta must be a number"),
    ],
)
def test_what_cannot_be_is_named(rope: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        hf(rope_scaling=rope)


@pytest.mark.parametrize("factor", [0, -0.5, 1.5, math.nan, "half", True])
def test_partial_rotary_factors_that_cannot_be(factor: object) -> None:
    with pytest.raises(ModelFileError, match=r"partial_rotary_factor must be a number in 0..1"):
        hf("phi3", partial_rotary_factor=factor)


# ---- GGUF ----------------------------------------------------------------------------------


def test_gguf_factor_without_a_type_is_linear() -> None:
    assert gguf_scaling(rope__scaling__factor=4.0) == RopeScaling("linear", 4.0)
    assert gguf_scaling(rope__scaling__factor=1.0) is None
    assert gguf_scaling(rope__scaling__type="linear", rope__scaling__factor=0.0) is None


def test_gguf_yarn() -> None:
    yarn = {
        "rope__scaling__type": "yarn",
        "rope__scaling__factor": 4.0,
        "rope__scaling__original_context_length": 256,
    }
    assert gguf_scaling(**yarn) == RopeScaling("yarn", 4.0, original_max_seq_len=256)
    found = gguf_scaling(**yarn, rope__scaling__yarn_beta_fast=16.0)
    assert found is not None and found.beta_fast == 16.0
    found = gguf_scaling(**yarn, rope__scaling__yarn_attn_factor=1.5)
    assert found is not None and found.amplitude == 1.5
    found = gguf_scaling(**yarn, rope__scaling__attn_factor=2.0)
    assert found is not None and found.amplitude == pytest.approx(2 * (0.1 * math.log(4) + 1))
    found = gguf_scaling(**yarn, rope__scaling__yarn_log_multiplier=1.0)
    assert found is not None and found.amplitude == 1.0


def test_gguf_longrope_is_two_tensors() -> None:
    long = {"rope__scaling__original_context_length": 256, "rope__scaling__attn_factor": 1.25}
    found = gguf_scaling("phi3", {LONG: FACTORS[:4], SHORT: FACTORS[4:]},
                         rope__dimension_count=8, **long)  # fmt: skip
    assert found is not None and found.amplitude == 1.25
    assert (found.long_factors, found.short_factors) == (FACTORS[:4], FACTORS[4:])
    for name in (LONG, SHORT):
        with pytest.raises(ModelFileError, match=r"tensor 'rope_factors_\w+.weight' is missing"):
            gguf("phi3", {name: FACTORS}, **long)
    with pytest.raises(ModelFileError, match="is longrope, but tensor"):
        gguf("phi3", rope__scaling__type="longrope")


def test_gguf_llama3_is_a_tensor() -> None:
    rope = gguf(vectors={FREQS: FACTORS})[0].rope
    assert rope is not None and rope.freq_factors == FACTORS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope__scaling__factor": math.nan}, "rope scaling factor must be a number"),
        ({"rope__scaling__factor": -2.0}, "rope scaling factor must be a number"),
        ({"rope__scaling__factor": [1]}, "rope scaling factor must be a number"),
        ({"rope__dimension_count": 15}, "rotary_dim must be even"),
        ({"rope__dimension_count": 32}, "rotary_dim must be a whole number in 1..16"),
        ({"rope__dimension_count": "x"}, "dimension_count must be a whole number"),
        ({"attention__sliding_window": -3}, "sliding_window must be a whole number"),
        ({"attention__sliding_window": False}, "sliding_window must be a whole number"),
        ({"attention__head_count_kv": []}, "head_count_kv must be the same in all layers"),
        ({"attention__head_count_kv": [2, 3]}, "head_count_kv must be the same in all layers"),
    ],
)
def test_gguf_that_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=message):
        gguf(**changes)


@pytest.mark.parametrize("pattern", [-1, "x", 2.5, True, [2] * 8, ["x"] * 8, [True] * 7])
def test_gguf_window_patterns_that_cannot_be(pattern: object) -> None:
    with pytest.raises(ModelFileError):
        gguf("gemma3", attention__sliding_window=7, attention__sliding_window_pattern=pattern)


@pytest.mark.parametrize("pattern", [3, [True, True, False] * 2 + [True, True]])
def test_gguf_window_pattern_is_a_period_or_a_list(pattern: object) -> None:
    layers = gguf("gemma3", attention__sliding_window=7, attention__sliding_window_pattern=pattern)
    assert [each.window for each in layers] == [7, 7, None, 7, 7, None, 7, 7]


def test_gguf_one_value_for_each_layer() -> None:
    assert gguf(attention__head_count_kv=[3] * 8)[0].n_kv_heads == 3


def test_gguf_window_of_0_is_none() -> None:
    assert gguf("phi3", attention__sliding_window=0)[0].window is None
    assert gguf("phi3", attention__sliding_window=9)[0].window == 9
