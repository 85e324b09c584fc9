"""Products of plain weights (f32, f16, bf16): what the case list cannot say of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.selection import Selection, all_variants
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows

pytestmark = pytest.mark.native
Array = NDArray[Any]
PLAIN = ("f32", "f16", "bf16")
ROUNDING = ("cpp-amxbf16", "cpp-avx512bf16")  # variants that round activations to bfloat16
PAIRS = [
    pytest.param(name, format, id=f"{name}-{format}")
    for name, variant in all_variants("matmul").items()
    for format in PLAIN
    if name != "numpy" and not variant.unavailable and format in variant.formats
]


def product(
    variant: str, x: Array, weight: PackedWeight, bias: Array | None = None, start: float = np.nan
) -> Array:
    """x times the weight's rows, by that variant; added to `start` unless that is NaN."""
    out = np.full((len(x), weight.n_rows), start, np.float32)
    recorder = Recorder(Selection(f"matmul.{weight.format}={variant}"))
    recorder.call(
        "matmul",
        weight.format,
        n_tokens=np.array([len(x)]),
        x=x,
        weight=weight,
        bias=bias,
        out=out,
        n_rows=weight.n_rows,
        n_cols=weight.n_cols,
        out_stride=weight.n_rows,
        accumulate=int(not np.isnan(start)),
    )
    Program(recorder.calls).run()
    return out


def packed(values: Array, format: str) -> PackedWeight:
    weight = PackedWeight.empty(format, *values.shape)
    pack_rows(formats.quantize(values.astype(np.float32), format), weight, 0)
    return weight


def to_bfloat(x: Array) -> Array:
    """Rounded to the nearest bfloat16, ties to even, in float32."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("scale", [1, 1e-19], ids=["usual", "near-zero"])
@pytest.mark.parametrize(("variant", "format"), PAIRS)
def test_a_token_has_the_same_bits_alone_and_in_company(
    variant: str, format: str, scale: float
) -> None:
    """Also where products and sums are too small for a normal float32."""
    rng = np.random.default_rng(7)
    weight = packed(rng.standard_normal((50, 77)) * (1 if format == "f16" else scale), format)
    x = (rng.standard_normal((41, 77)) * (scale if format != "f16" else scale**2)).astype("f4")
    bias = (rng.standard_normal(50) * scale**2).astype(np.float32)
    for added in ((None,), (bias, scale**2)):
        alone = [product(variant, x[t : t + 1], weight, *added) for t in range(len(x))]
        for n_tokens in (2, 3, 4, 6, 7, 8, 9, 11, 29, 41):
            found = product(variant, x[:n_tokens], weight, *added)
            assert (found == np.concatenate(alone[:n_tokens])).all()


@pytest.mark.parametrize(("variant", "format"), PAIRS)
def test_activations_are_rounded_only_where_the_name_says_so(variant: str, format: str) -> None:
    """A row that is 1 in one column gives that activation back."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((5, 35)).astype(np.float32)
    x.view(np.uint32)[0] = 0x3F800000 + 0x8000 * np.arange(35)  # ties, to either side
    wanted = to_bfloat(x) if variant in ROUNDING else x
    assert (wanted != x).any() == (variant in ROUNDING)
    assert (product(variant, x, packed(np.eye(35), format)) == wanted).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("variant", "format"), PAIRS)
def test_a_non_finite_activation_reaches_its_own_token_only(
    variant: str, format: str, bad: float
) -> None:
    x = np.ones((9, 33), np.float32)
    x[4, 32] = bad
    out = product(variant, x, packed(np.ones((20, 33)), format))
    assert not np.isfinite(out[4]).any()
    assert (np.delete(out, 4, axis=0) == 33).all()
