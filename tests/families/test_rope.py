"""Rotary frequencies of every scaling: against transformers' own, and of files that lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pyroclast.errors import ModelFileError
from pyroclast.families.layer_spec import AttentionSpec
from pyroclast.families.rope import RopeScaling, RopeSpec, inv_freq

NAN = float("nan")
PAIRS = 24
SHORT = tuple(1 + i / 16 for i in range(PAIRS))
LONG = tuple(1.5 + i * i / 8 for i in range(PAIRS))

# Our fields -> transformers' keys.
KEYS = {
    "original_max_seq_len": "original_max_position_embeddings",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
}
YARN = {"original_max_seq_len": 4096}
SCALINGS: list[tuple[str, float, dict[str, Any]]] = [
    ("linear", 4.0, {}),
    (
        "llama3",
        8.0,
        {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 8192},
    ),
    ("yarn", 4.0, YARN),
    ("yarn", 0.5, YARN),
    ("yarn", 16.0, YARN | {"beta_fast": 12.0, "beta_slow": 3.0}),
    ("yarn", 16.0, YARN | {"truncate": False}),
    ("yarn", 16.0, YARN | {"attention_factor": 1.125}),
    ("yarn", 40.0, YARN | {"mscale": 0.707, "mscale_all_dim": 1.5}),
    ("yarn", 40.0, YARN | {"mscale": 0.707}),
    # The whole range lies within the first pair.
    ("yarn", 40.0, {"original_max_seq_len": 6, "beta_fast": 64.0, "beta_slow": 32.0}),
    ("longrope", 32.0, {"original_max_seq_len": 4096}),
    ("longrope", 1.0, {"original_max_seq_len": 4096}),
    ("longrope", 32.0, {"original_max_seq_len": 4096, "attention_factor": 1.25}),
    ("dynamic", 3.0, {"original_max_seq_len": 4096}),
]


@pytest.mark.parametrize("partial", [1.0, 0.75])
@pytest.mark.parametrize("max_seq_len", [4096, 4097, 32768])
@pytest.mark.parametrize(("kind", "factor", "fields"), SCALINGS)
def test_frequencies_equal_transformers(
    kind: Any, factor: float, fields: dict[str, Any], max_seq_len: int, partial: float
) -> None:
    """Within one unit in the last place: two libraries' powers differ by as much."""
    pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
    transformers = pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    head_dim = round(2 * PAIRS / partial)
    if kind == "longrope":
        fields = fields | {"short_factors": SHORT, "long_factors": LONG}
    rope = {KEYS.get(name, name): value for name, value in fields.items()}
    rope |= {"rope_type": kind, "rope_theta": 5e5, "factor": factor}
    if partial != 1:
        rope["partial_rotary_factor"] = partial
    config = transformers.LlamaConfig(
        head_dim=head_dim,
        max_position_embeddings=fields.get("original_max_seq_len", 4096),
        rope_parameters={name: list(v) if isinstance(v, tuple) else v for name, v in rope.items()},
    )
    want, amplitude = ROPE_INIT_FUNCTIONS[kind](config, None, seq_len=max_seq_len)
    spec = RopeSpec(5e5, RopeScaling(kind, factor, **fields), rotary_dim=2 * PAIRS)
    got = inv_freq(spec, head_dim, max_seq_len)
    assert got.dtype == np.float32
    assert got.shape == (PAIRS,)
    np.testing.assert_array_max_ulp(got, want.numpy(), 1)
    assert math.isclose(spec.amplitude, amplitude, rel_tol=1e-15)


def test_dynamic_scaling_acts_beyond_max_position_alone() -> None:
    """So it never acts here: a context ends at max_position_embeddings."""
    torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
    transformers = pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
    longest = 64
    its = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(
        transformers.LlamaConfig(
            hidden_size=96,
            num_attention_heads=2,
            max_position_embeddings=longest,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        )
    )
    spec = RopeSpec(1e4, RopeScaling("dynamic", 2.0, original_max_seq_len=longest))
    for n_positions in (1, longest, longest + 1, 3 * longest, 1):
        its(torch.zeros(1, 1, 1), torch.arange(n_positions)[None])
        np.testing.assert_allclose(
            its.inv_freq.numpy(), inv_freq(spec, 2 * PAIRS, n_positions), rtol=1e-6
        )
        acts = not np.array_equal(inv_freq(spec, 2 * PAIRS, n_positions), inv_freq(spec, 2 * PAIRS))
        assert acts == (n_positions > longest)


def test_the_context_in_use_decides_long_factors_and_growth() -> None:
    """Not the length of a text; and nothing else looks at it."""
    fields = {"original_max_seq_len": 64, "short_factors": SHORT, "long_factors": LONG}
    long = RopeSpec(1e4, RopeScaling("longrope", 4.0, **fields))  # type: ignore[arg-type]
    plain = inv_freq(RopeSpec(1e4), 48)
    for max_seq_len, factors in ((0, SHORT), (64, SHORT), (65, LONG)):
        got = inv_freq(long, 48, max_seq_len)
        np.testing.assert_allclose(got, plain / np.array(factors), rtol=1e-6)
    dynamic = RopeSpec(1e4, RopeScaling("dynamic", 2.0, original_max_seq_len=64))
    np.testing.assert_array_equal(inv_freq(dynamic, 48, 64), plain)
    assert (inv_freq(dynamic, 48, 128)[1:] < inv_freq(dynamic, 48, 65)[1:]).all()
    for kind in ("linear", "llama3", "yarn"):
        spec = RopeSpec(1e4, RopeScaling(kind, 2.0, original_max_seq_len=64))  # type: ignore[arg-type]
        np.testing.assert_array_equal(inv_freq(spec, 48, 4096), inv_freq(spec, 48))


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("linear", {"factor": NAN}, "factor must be a number"),
        ("linear", {"factor": 1e-20}, "factor must be a number"),
        ("linear", {"factor": "2"}, "factor must be a number"),
        ("yarn", {"attention_factor": -1.0}, "attention_factor must be a number"),
        ("yarn", {"beta_fast": 0.0}, "beta_fast must be a number"),
        ("yarn", {"beta_fast": 1.0}, "beta_fast must be above beta_slow 1.0, got 1.0"),
        ("yarn", {"mscale": NAN}, "mscale must be a number"),
        ("yarn", {"mscale_all_dim": -1.0}, "mscale_all_dim must be a number"),
        ("yarn", {"truncate": 1}, "truncate must be true or false"),
        ("yarn", {"original_max_seq_len": True}, "original_max_seq_len must be a whole number"),
        ("llama3", {"high_freq_factor": 0.5}, "high_freq_factor must be above low_freq_factor"),
        ("longrope", {"short_factors": None}, "short_factors are missing"),
        ("longrope", {"long_factors": (1.0, NAN)}, "every value of rope scaling long_factors"),
        ("longrope", {"long_factors": (0.0, 1.0)}, "every value of rope scaling long_factors"),
        ("longrope", {"short_factors": ("1", "1")}, "every value of rope scaling short_factors"),
        ("longrope", {"original_max_seq_len": 1}, "original_max_seq_len must be a number in 2"),
    ],
)
def test_a_scaling_that_cannot_be_is_refused(kind: Any, change: dict[str, Any], words: str) -> None:
    fields = {"factor": 2.0, "short_factors": (1.0, 1.0), "long_factors": (1.0, 1.0)}
    with pytest.raises(ModelFileError, match=words):
        RopeScaling(kind, **(fields | change))  # type: ignore[arg-type]


LISTS = RopeScaling("longrope", 2.0, short_factors=(1.0,) * 8, long_factors=(1.0,) * 7)


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rotary_dim": 0}, "rotary_dim must be a whole number in 1..16"),
        ({"rotary_dim": 18}, "rotary_dim must be a whole number in 1..16"),
        ({"rotary_dim": 7}, "rotary_dim must be even"),
        ({"rotary_dim": 8, "freq_factors": (1.0,) * 8}, "rope_freqs must hold rotary_dim / 2 = 4"),
        ({"freq_factors": (1.0,) * 7}, "rope_freqs must hold head_dim / 2 = 8 values, got 7"),
        ({"freq_factors": (NAN,) * 8}, "every value of rope_freqs must be"),
        ({"scaling": LISTS}, "long_factors must hold head_dim / 2 = 8 values, got 7"),
        ({"scaling": RopeScaling("yarn", 2.0), "theta": 1.0}, "rope_theta must be above 1"),
        ({"scaling": RopeScaling("dynamic", 2.0), "rotary_dim": 2}, "at least 4 with dynamic"),
        ({"theta": 1e-20}, "rope_theta must be"),
    ],
)
def test_a_rotation_that_does_not_fit_the_head_is_refused(rope: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        AttentionSpec(4, 2, 16, RopeSpec(**({"theta": 1e4} | rope)))


@pytest.mark.parametrize("theta", [1e-6, 1.0000001, 1e30])
@pytest.mark.parametrize("factor", [1e-6, 1e9])
@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn", "longrope", "dynamic"])
def test_what_is_allowed_stays_finite(kind: Any, factor: float, theta: float) -> None:
    """At the last position that a context may have, too: an infinite angle has no cosine."""
    if kind == "yarn" and theta < 1:
        return
    factors = (factor,) * 8
    scaling = RopeScaling(kind, factor, short_factors=factors, long_factors=factors)
    spec = RopeSpec(theta, scaling, freq_factors=factors)
    assert math.isfinite(spec.amplitude)
    for max_seq_len in (0, 1 << 28):
        assert np.isfinite(inv_freq(spec, 16, max_seq_len) * np.float32(1 << 28)).all()
