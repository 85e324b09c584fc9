"""The op `attention` beyond its case list: 8-bit outputs, poison, and how the cache is laid out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.attention import FORMATS, cache
from pyroclast_kernels.cases import Case, op_cases
from pyroclast_kernels.program import Program, Recorder
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
    step = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 1 / 250}[format]
    assert np.abs(got_k[:, :, at].transpose(2, 0, 1) - keys).max() <= step * np.abs(keys).max()
    assert np.abs(got_v[:, at].transpose(1, 0, 2) - values).max() <= step * np.abs(values).max()
    assert (step > 0) == bool((got_v[:, at].transpose(1, 0, 2) != values).any())
