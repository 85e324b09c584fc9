"""The op `attention` beyond its case list: 8-bit outputs, poison, and how the cache is laid out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.attention import FORMATS, cache
from pyroclast_kernels.attention.cases import _attention as attention_arguments
from pyroclast_kernels.attention.reference import probs
from pyroclast_kernels.cases import Case, expected, mismatches, op_cases
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.rope.cases import Shape
from pyroclast_kernels.selection import Selection, all_variants

pytestmark = pytest.mark.native
PAIRS = [
    pytest.param(name, format, id=f"{name}-{format}")
    for name, variant in all_variants("attention").items()
    for format in variant.formats
    if not variant.unavailable and name not in ("numpy", "numba")
]


def case_of(name: str, format: str) -> Case:
    return next(c for c in op_cases("attention") if (c.name, c.format) == (name, format))


def run(name: str, format: str, arguments: dict[str, Any]) -> None:
    recorder = Recorder(Selection(f"attention={name}"))
    recorder.call("attention", format, **arguments)
    Program(recorder.calls).run()


@pytest.mark.parametrize(("name", "format"), PAIRS)
@pytest.mark.parametrize("case_name", ["9h3k64d-1@600", "9h3k64d-9@70-window33"])
def test_8_bit_output_is_the_float32_output_quantized(
    name: str, format: str, case_name: str
) -> None:
    """Without a window a lone token is shared in splits; nine of them are a tile."""
    arguments = case_of(case_name, format).make()
    n_tokens = int(arguments["n_tokens"][0])
    width = arguments["out"].shape[1]
    arguments["out_q8"] = np.zeros((n_tokens + 1, width // 32), q8_blocks.Q8_BLOCK)
    run(name, format, arguments)
    assert np.abs(arguments["out"][:n_tokens]).max() > 0.1
    want = q8_blocks.quantize(arguments["out"][:n_tokens])
    got = arguments["out_q8"][:n_tokens]
    for field in ("scale", "values", "minus_8_sum", "minus_128_sum"):
        np.testing.assert_array_equal(got[field], want[field])


def poison(arguments: dict[str, Any], which: str, position: int) -> None:
    """A NaN for one dimension of the query, or of the key or value at a position, of kv head 0."""
    if which == "qkv":
        arguments["qkv"][0, 3] = np.nan
        return
    head_dim = arguments["head_dim"]
    one = np.zeros((1, arguments["n_kv_heads"], head_dim), np.float32)
    one[0, 0, 5] = np.nan
    at = np.array([arguments["block_tables"][0, position // 32]]), np.array([position % 32])
    before = arguments["k_cache"].copy(), arguments["v_cache"].copy()
    cache.write(arguments["k_cache"], arguments["v_cache"], *at, one, one, 32)
    other = "v_cache" if which == "k_cache" else "k_cache"
    arguments[other] = before[other == "v_cache"]


@pytest.mark.parametrize(("name", "format"), PAIRS)
@pytest.mark.parametrize("which", ["qkv", "k_cache", "v_cache"])
def test_a_nan_reaches_the_output(name: str, format: str, which: str) -> None:
    """Rounding to integers, or a maximum, would turn a NaN into a number and hide it."""
    arguments = case_of("9h3k64d-1@600", format).make()
    poison(arguments, which, position=530)
    run(name, format, arguments)
    heads = np.isnan(arguments["out"][0].reshape(3, 3, 64)).any(axis=-1)
    assert heads[0, 0] and not heads[1:].any()  # query head 0, nobody of another kv head
    assert heads[0].all() == (which != "qkv")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("head_dim", [2, 24, 64, 80])
def test_the_cache_reads_what_was_written(format: str, head_dim: int) -> None:
    rng = np.random.default_rng(head_dim)
    heads, n = (3, 2), 96
    dtype = cache.DTYPES[format]
    k, v = (np.zeros((*heads, *shape), dtype) for shape in cache.block_shapes(format, head_dim))
    keys, values = rng.standard_normal((2, n, 2, head_dim), np.float32)
    block, slot = np.divmod(rng.permutation(n), 32)
    cache.write(k, v, block, slot, keys, values, 32)
    got_k, got_v = cache.read(k, v, head_dim, 32)
    at = block * 32 + slot
    step = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 0.51 / q8_blocks.LEVELS[-1]}[
        format
    ]
    assert np.abs(got_k[:, :, at].transpose(2, 0, 1) - keys).max() <= step * np.abs(keys).max()
    assert np.abs(got_v[:, at].transpose(1, 0, 2) - values).max() <= step * np.abs(values).max()
    assert (step > 0) == bool((got_v[:, at].transpose(1, 0, 2) != values).any())


# ---- scale, softcap, sinks ---------------------------------------------------------------------

ALL = [
    pytest.param(name, format, id=f"{name}-{format}")
    for name, variant in all_variants("attention").items()
    for format in variant.formats
    if not variant.unavailable and variant.launch is None  # tests/gpu has those
]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("parameter", ["window", "scale", "softcap", "sinks"])
def test_a_variant_that_ignores_a_parameter_fails_a_case(parameter: str, format: str) -> None:
    """Also if it may round to 16 bits.  Two such cases are enough."""
    caught = 0
    for case in op_cases("attention"):
        if case.format != format:
            continue
        got = case.make()
        neutral = {"window": 0, "scale": got["head_dim"] ** -0.5, "softcap": 0.0, "sinks": None}
        if np.array_equal(got[parameter], neutral[parameter]):
            continue
        get_op("attention").reference(**(got | {parameter: neutral[parameter]}))
        caught += bool(mismatches(case, *expected(case), got, rounds=True))
        if caught == 2:
            return
    pytest.fail(f"{caught} cases catch it")


@pytest.mark.parametrize("format", FORMATS)
def test_a_sink_that_every_split_counts_fails_a_case(format: str) -> None:
    case = case_of("9h3k64d-1@1100+1@5-sinks7.0", format)
    before, after = expected(case)
    got = case.make()
    got["sinks"] += np.float32(np.log(3))  # of three splits
    get_op("attention").reference(**got)
    assert mismatches(case, before, after, got, rounds=True)


@pytest.mark.parametrize(("name", "format"), ALL)
@pytest.mark.parametrize("shape", [Shape(4, 2, 64, ((1100, 1),)), Shape(4, 2, 64, ((700, 20),))])
def test_sinks_far_from_the_scores(name: str, format: str, shape: Shape) -> None:
    """Far below they change nothing, far above they leave nothing."""
    plain, below, above = (
        attention_arguments(shape, format, 0, False, sinks=about) for about in (None, -200.0, 200.0)
    )
    for arguments in (plain, below, above):
        run(name, format, arguments)
    np.testing.assert_array_equal(below["out"], plain["out"])
    assert not above["out"][: shape.n_tokens].any() and plain["out"][: shape.n_tokens].all()


@pytest.mark.parametrize(("name", "format"), ALL)
def test_capped_scores_and_sinks_have_the_same_bits_in_any_company(name: str, format: str) -> None:
    """Six tokens are a tile that reads its splits in order; one alone may share them out."""
    shape = Shape(8, 2, 64, ((1100, 6),))
    together = attention_arguments(shape, format, 900, False, 0.3, 2.0, 5.0)
    run(name, format, together)
    for token in range(6):
        lone = together | {
            "n_tokens": np.array([1]),
            "seq_starts": np.array([0, 1], np.int32),
            "positions": together["positions"][token : token + 1],
            "qkv": together["qkv"][token : token + 1],
            "out": np.full_like(together["out"], 7),
        }
        run(name, format, lone)
        if name != "numpy":
            np.testing.assert_array_equal(lone["out"][0], together["out"][token])
        np.testing.assert_allclose(lone["out"][0], together["out"][token], atol=1e-6)


@pytest.mark.parametrize(("name", "format"), ALL)
@pytest.mark.parametrize("which", ["qkv", "k_cache"])
def test_a_nan_passes_through_the_cap(name: str, format: str, which: str) -> None:
    arguments = attention_arguments(Shape(9, 3, 64, ((600, 1),)), format, 0, False, None, 2.0, 3.0)
    poison(arguments, which, position=530)
    with np.errstate(invalid="ignore"):
        run(name, format, arguments)
    heads = np.isnan(arguments["out"][0].reshape(3, 3, 64)).all(axis=-1)
    assert heads[0, 0] and not heads[1:].any()


def test_probabilities_and_the_sink_s_share_add_up_to_one() -> None:
    rng = np.random.default_rng(3)
    q, k = rng.standard_normal((2, 3, 16)), rng.standard_normal((2, 16, 5))
    scores = 1.5 * np.tanh(0.5 * q @ k / 1.5)
    sinks = np.linspace(-2, 2, 6).astype(np.float32)
    got = probs(q, k, 0.5, 1.5, sinks)
    whole = np.exp(scores).sum(axis=-1) + np.exp(sinks).reshape(2, 3)
    np.testing.assert_allclose(got, np.exp(scores) / whole[..., None], rtol=1e-5)
    np.testing.assert_allclose(1 - got.sum(axis=-1), np.exp(sinks).reshape(2, 3) / whole, rtol=1e-4)
