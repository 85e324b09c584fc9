"""Config mapping: what each file format says, and what becomes of it, as the tables state it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_gguf import hyperparameters_from_gguf
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import config_of
from pyroclast.families.rope import RopeScaling, inv_freq
from pyroclast.files.gguf_metadata import Metadata

REMOVED = object()

# config.json of published models, shortened to what matters here.
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA_3_2_1B = {
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
TINYLLAMA = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
MISTRAL_7B_V01 = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
QWEN2_5_0_5B = {
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def checked(hyperparameters: Hyperparameters) -> Hyperparameters:
    """What was read, once the config that its family makes of it has checked it."""
    config_of(hyperparameters)
    return hyperparameters


def from_hf(config: dict[str, Any], **changes: Any) -> Hyperparameters:
    merged = {key: value for key, value in (config | changes).items() if value is not REMOVED}
    return checked(hyperparameters_from_hf(merged, {}))


# -- config.json -----------------------------------------------------------------------------


def test_smollm2() -> None:
    assert from_hf(SMOLLM2) == Hyperparameters(
        family="llama",
        n_layers=30,
        n_heads=9,
        n_kv_heads=3,
        head_dim=64,
        d_model=576,
        d_ff=1536,
        vocab_size=49152,
        max_seq_len=8192,
        rope_theta=100000,
        norm_eps=1e-5,
        tie_embeddings=True,
        bos_token_id=1,
        eos_token_ids=(2,),
    )


def test_llama_3() -> None:
    config = from_hf(LLAMA_3_2_1B)
    assert config.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    assert config.eos_token_ids == (128001, 128008, 128009)


def test_tinyllama_leaves_theta_to_its_default() -> None:
    config = from_hf(TINYLLAMA)
    assert (config.rope_theta, config.tie_embeddings, config.n_kv_heads) == (10000.0, False, 4)


def test_mistral_window() -> None:
    assert from_hf(MISTRAL_7B_V01).sliding_window == 4096
    assert from_hf(MISTRAL_7B_V01, sliding_window=None).sliding_window is None
    assert from_hf(MISTRAL_7B_V01, sliding_window=REMOVED).sliding_window == 4096


def windows(hyperparameters: Hyperparameters) -> list[int | None]:
    """Of each layer."""
    return [spec.attention.window for spec in config_of(hyperparameters).layers]


def test_qwen2_has_biases_and_a_window_only_when_switched_on() -> None:
    config = from_hf(QWEN2_5_0_5B)
    assert config.qkv_bias and not config.o_bias
    assert windows(config) == [None] * 24
    on = {"use_sliding_window": True, "sliding_window": 100}
    assert windows(from_hf(QWEN2_5_0_5B, **on, max_window_layers=0)) == [100] * 24
    assert windows(from_hf(QWEN2_5_0_5B, **on, max_window_layers=24)) == [None] * 24
    assert windows(from_hf(QWEN2_5_0_5B, **on)) == [None] * 21 + [100] * 3


def test_layer_types_decide_where_they_are_given() -> None:
    on = {"use_sliding_window": True, "sliding_window": 100}
    kinds = ["sliding_attention", "full_attention"] * 12
    assert windows(from_hf(QWEN2_5_0_5B, **on, layer_types=kinds)) == [100, None] * 12
    with pytest.raises(UnsupportedModelError, match="linear_attention"):
        from_hf(QWEN2_5_0_5B, **on, layer_types=[*kinds[1:], "linear_attention"])
    with pytest.raises(ModelFileError, match=r"23 layers .* and that there are 24"):
        from_hf(QWEN2_5_0_5B, **on, layer_types=kinds[1:])
    with pytest.raises(ModelFileError, match="layer_types must be a list of names, got 'full'"):
        from_hf(QWEN2_5_0_5B, **on, layer_types="full")


def test_rope_parameters_of_transformers_5() -> None:
    rope = LLAMA_3_2_1B["rope_scaling"] | {"rope_theta": 500000.0}  # type: ignore[operator]
    new = from_hf(LLAMA_3_2_1B, rope_parameters=rope, rope_scaling=REMOVED, rope_theta=REMOVED)
    assert new == from_hf(LLAMA_3_2_1B)


def test_old_name_of_the_rope_type() -> None:
    config = from_hf(TINYLLAMA, rope_scaling={"type": "linear", "factor": 2.0})
    assert config.rope_scaling == RopeScaling("linear", 2.0)
    assert from_hf(TINYLLAMA, rope_scaling={"rope_type": "default"}).rope_scaling is None


def test_sizes_that_follow_from_others() -> None:
    assert from_hf(TINYLLAMA, num_key_value_heads=REMOVED).n_kv_heads == 32
    assert from_hf(MISTRAL_7B_V01, num_key_value_heads=REMOVED).n_kv_heads == 8
    assert from_hf(TINYLLAMA, head_dim=None).head_dim == 64
    assert from_hf(TINYLLAMA, head_dim=128).head_dim == 128


def test_generation_config_adds_end_ids() -> None:
    config = hyperparameters_from_hf(QWEN2_5_0_5B, {"eos_token_id": [151645, 151643]})
    assert config.eos_token_ids == (151645, 151643)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "bert"},
            "'bert' is not supported; supported: gemma2, gemma3_text, gemma3n_text, gemma4_text",
        ),
        ({"model_type": ["llama"]}, "is not supported"),
        ({"hidden_act": "mish"}, "hidden_act 'mish' is not supported; supported: 'silu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1 for llama, got 0.5"),
        ({"rope_scaling": {"rope_type": "mrope", "factor": 4.0}}, "rope type 'mrope'.*llama3"),
        ({"rope_scaling": {"rope_type": ["linear"]}}, r"rope type \['linear'\]"),
        ({"quantization_config": {"bits": 4}}, "folder@q8_0"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        from_hf(TINYLLAMA, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": REMOVED}, "'num_hidden_layers' is missing"),
        ({"num_key_value_heads": 5}, "n_heads must be a multiple of n_kv_heads 5, got 32"),
        ({"num_attention_heads": 24}, "'hidden_size' must be a multiple of .* = 24, got 2048"),
        ({"head_dim": 63}, "head_dim must be even"),
        ({"hidden_size": -2048}, "'hidden_size' must be a whole number >= 1, got -2048"),
        ({"vocab_size": 1 << 40}, r"vocab_size must be a whole number in 1..16777216"),
        ({"num_hidden_layers": 1.0}, "n_layers must be a whole number .* got 1.0"),
        ({"rope_theta": math.inf}, "rope_theta must be a number"),
        ({"rope_theta": 10**400}, "rope_theta must be a number"),
        ({"rms_norm_eps": "1e-5"}, "norm_eps must be a number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        ({"bos_token_id": 32000}, "special token ids must be in 0..31999, got 32000"),
        ({"eos_token_id": [2, -1]}, "special token ids must be in 0..31999, got -1"),
        ({"eos_token_id": "2"}, "a token id must be a whole number, got '2'"),
        ({"eos_token_id": [[2]]}, "a token id must be a whole number"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window must be a whole number"),
        ({"attention_bias": 1}, "attention_bias must be true or false, got 1"),
        ({"rope_scaling": 4}, "rope_scaling must be an object, got 4"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'factor' is missing in the linear rope"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope scaling factor must be"),
        (
            {"rope_scaling": LLAMA_3_2_1B["rope_scaling"] | {"low_freq_factor": 4.0}},  # type: ignore[operator]
            "high_freq_factor must be above low_freq_factor 4.0, got 4.0",
        ),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        from_hf(TINYLLAMA, **changes)


# -- GGUF metadata ---------------------------------------------------------------------------

GGUF_LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 22,
    "llama.context_length": 2048,
    "llama.embedding_length": 2048,
    "llama.feed_forward_length": 5632,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 64,
    "llama.rope.freq_base": 10000.0,
    "llama.vocab_size": 32000,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def from_gguf(
    *tensors: str, vectors: dict[str, tuple[float, ...]] | None = None, **changes: Any
) -> Hyperparameters:
    """Changes name keys with __ for dots: llama__rope__freq_base."""
    values = GGUF_LLAMA | {key.replace("__", "."): value for key, value in changes.items()}
    values = {key: value for key, value in values.items() if value is not REMOVED}
    found = hyperparameters_from_gguf(
        Metadata(values),
        tensors={"output.weight", *tensors},
        vectors=vectors or {},
    )
    return checked(found)


def test_gguf_says_the_same_as_config_json() -> None:
    assert from_gguf() == from_hf(TINYLLAMA)


def test_gguf_defaults() -> None:
    assert from_gguf(llama__attention__head_count_kv=REMOVED).n_kv_heads == 32
    assert from_gguf(llama__rope__freq_base=REMOVED).rope_theta == 10000.0
    wide = from_gguf(
        llama__attention__key_length=128,
        llama__attention__value_length=128,
        llama__rope__dimension_count=REMOVED,
    )
    assert wide.head_dim == 128


def test_gguf_rope_scaling_in_both_spellings() -> None:
    expected = RopeScaling("linear", 4.0)
    kind = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    assert from_gguf(**kind).rope_scaling == expected
    assert from_gguf(llama__rope__scale_linear=4.0).rope_scaling == expected
    assert from_gguf(llama__rope__scaling__type="none").rope_scaling is None


def test_gguf_end_of_turn_also_ends() -> None:
    config = from_gguf(tokenizer__ggml__eot_token_id=5, tokenizer__ggml__eom_token_id=2)
    assert config.eos_token_ids == (2, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama__expert_count": 8}, "expert_count is 8: experts are not supported in this "),
        (
            {"llama__rope__scaling__type": "su"},
            "type 'su' is not supported; supported: none, linear",
        ),
        ({"llama__attention__value_length": 32}, "value_length must equal the head size 64"),
    ],
)
def test_gguf_options_that_are_not_supported(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        from_gguf(**changes)


@pytest.mark.parametrize("key", [key for key in GGUF_LLAMA if key.startswith("llama.")])
@pytest.mark.parametrize("value", ["x", [1, 2], -7, 2**64 - 1, math.nan, True, b"", {}])
def test_gguf_values_of_the_wrong_kind(key: str, value: object) -> None:
    if key == "llama.rope.freq_base" and value == 2**64 - 1:
        value = 10**31  # a theta of 2**64 is odd, not wrong
    with pytest.raises(ModelFileError):
        from_gguf(**{key: value})


@pytest.mark.parametrize("value", ["x", [], ["x"], -7, 2**64 - 1, math.nan, True])
def test_gguf_token_ids_of_the_wrong_kind(value: object) -> None:
    if value == []:
        assert from_gguf(tokenizer__ggml__bos_token_id=value).bos_token_id is None
        return
    with pytest.raises(ModelFileError):
        from_gguf(tokenizer__ggml__bos_token_id=value)


# -- rotary frequencies ----------------------------------------------------------------------


def frequencies(config: Hyperparameters) -> np.ndarray:
    return inv_freq(config.rope, config.head_dim)


def test_plain_frequencies() -> None:
    expected = [10000.0 ** (-2 * i / 16) for i in range(8)]
    got = frequencies(tiny.BASE)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=2e-7)


def test_linear_scaling_divides_every_frequency() -> None:
    scaled = frequencies(tiny.CONFIGS["llama-linear"])
    np.testing.assert_array_equal(scaled * 4, frequencies(tiny.BASE))


def test_llama3_scaling_has_three_bands() -> None:
    config = tiny.CONFIGS["llama-llama3"]
    plain = frequencies(replace(config, rope_scaling=None))
    ratio = plain / frequencies(config)
    np.testing.assert_allclose(ratio, tiny.llama3_factors(config), rtol=1e-6)
    assert ratio[0] == 1
    assert ratio[-1] == 8
    assert ((ratio > 1.01) & (ratio < 7.9)).any()


def test_freq_factors_divide() -> None:
    factors = tuple(float(i + 1) for i in range(8))
    got = frequencies(replace(tiny.BASE, rope_freq_factors=factors))
    np.testing.assert_array_equal(got, frequencies(tiny.BASE) / np.array(factors, np.float32))


@pytest.mark.parametrize("factors", [(1.0,) * 7, (0.0,) * 8, (math.nan,) * 8, (-1.0,) * 8])
def test_freq_factors_are_checked(factors: tuple[float, ...]) -> None:
    with pytest.raises(ModelFileError, match="rope_freqs"):
        checked(replace(tiny.BASE, rope_freq_factors=factors))
