"""Numbers of block-quantized weights and activations, as Triton's products of them read them.

A part is what shares a scale: a block of 32 columns, or half of one.  Its product is an exact
int32, which enters its sum by one fused multiply-add with the product of both scales, and by a
second one of the minimum, where there is one, with the activations' own sum.

The order of the sums over k, for every kernel and any number of tokens: the columns of a row fall
into runs (split.py) of whole steps; a step is 256 columns, 8 blocks.  Block j of each step
of a run goes to lane j, left to right; halves of a block have lanes of their own.  The lanes are
added up in order, and so are the runs.  So a row has 8 or 16 chains of additions side by side, as a
warp wants them that reads 256 columns at once.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.split import n_splits
from pyroclast_kernels.weights.blocks import BLOCK, LAYOUTS

if TYPE_CHECKING:
    from pyroclast_kernels.triton.weights import DeviceWeight

STEP_BLOCKS = 8
TILE_ROWS = 64  # of the products on tensor cores, for which the runs are chosen
# Where they stand in a Q8_BLOCK, in words of 4 bytes; the first of a half, its second behind it.
_SUM_SCALED, _MINUS_8_SUM = tl.constexpr(1), tl.constexpr(2)
_HALF_SCALED, _MINUS_4_HALF_SUM = tl.constexpr(12), tl.constexpr(14)


def constants(format: str) -> dict[str, Any]:
    """What kernels are specialized to.

    part_columns: of a part; n_halves: float16 numbers of a header; n_small: small integers of it,
    which multiply them; n_offsets: how many of the activations' offset sums (minus_8_sum; of halves
    minus_4_half_sum) are to be added to a product of codes; nibbles: two blocks share their bytes.
    """
    layout = LAYOUTS[format]
    unit = 8 if layout.scale_columns == BLOCK else 4
    return {
        "part_columns": layout.scale_columns,
        "n_halves": layout.n_halves,
        "n_small": layout.n_small,
        "n_offsets": 0 if format == "q8_0" else layout.offset // unit,  # q8_0 is signed here
        "nibbles": layout.has_nibbles,
    }


def runs(n_rows: int, n_cols: int) -> tuple[int, int]:
    """(runs of a row, steps of each); the last one may reach beyond the columns."""
    n_steps = triton.cdiv(n_cols, STEP_BLOCKS * BLOCK)
    n_runs = n_splits(triton.cdiv(n_rows, TILE_ROWS), n_steps, least_steps=2)
    return n_runs, triton.cdiv(n_steps, n_runs)


def word_tensors(x: torch.Tensor, weight: DeviceWeight) -> tuple[torch.Tensor, ...]:
    """x as int32 and float32, and the weight's tensors, its codes as int32."""
    assert weight.codes is not None and weight.halves is not None and weight.small is not None
    words = x.view(torch.int32), x.view(torch.float32)
    return *words, weight.codes.view(torch.int32), weight.halves, weight.small


def byte_tensors(x: torch.Tensor, weight: DeviceWeight) -> tuple[torch.Tensor, ...]:
    """x as int8, int32 and float32, and the weight's tensors."""
    assert weight.codes is not None and weight.halves is not None and weight.small is not None
    views = x.view(torch.int8), x.view(torch.int32), x.view(torch.float32)
    return *views, weight.codes, weight.halves, weight.small


@triton.jit
def _header(row, part, n_parts, part_columns: tl.constexpr):
    per_header: tl.constexpr = 256 // part_columns
    return row * (n_parts // per_header) + part // per_header, part % per_header


@triton.jit
def scale_of(
    halves, small, row, part, n_parts, mask, part_columns: tl.constexpr, n_halves: tl.constexpr,
    n_small: tl.constexpr,
):  # fmt: skip
    """float32 scales of the parts of rows: exact, as products of 11 and 8 bits are."""
    if not n_small:
        at = halves + (row * n_parts + part) * n_halves
        return tl.load(at, mask, 0.0).to(tl.float32)
    header, i = _header(row, part, n_parts, part_columns)
    integer = tl.load(small + header * n_small + i, mask, 0)
    if part_columns == 16 and n_halves == 2:
        integer = integer & 15
    return tl.load(halves + header * n_halves, mask, 0.0).to(tl.float32) * integer.to(tl.float32)


@triton.jit
def minimum_of(
    halves, small, row, part, n_parts, mask, part_columns: tl.constexpr, n_small: tl.constexpr,
):  # fmt: skip
    """float32 minimums of the parts of rows, of formats with two float16 numbers."""
    if not n_small:
        at = halves + (row * n_parts + part) * 2 + 1
        return tl.load(at, mask, 0.0).to(tl.float32)
    header, i = _header(row, part, n_parts, part_columns)
    if part_columns == 16:
        integer = tl.load(small + header * n_small + i, mask, 0) >> 4
    else:
        integer = tl.load(small + header * n_small + 8 + i, mask, 0)
    return -(tl.load(halves + header * 2 + 1, mask, 0.0).to(tl.float32) * integer.to(tl.float32))


@triton.jit
def numbers_of(
    row, part, n_parts, row_mask, x_words, x_floats, x_row, x_mask, halves, small,
    part_columns: tl.constexpr, n_halves: tl.constexpr, n_small: tl.constexpr,
    n_offsets: tl.constexpr,
):  # fmt: skip
    """What turns an int32 product of codes and activations into what it stands for: see plus_part.

    row, part, x_row (index of the token's first Q8_BLOCK) and the masks are of shapes that
    broadcast to the products'; row_mask of row and part, x_mask of x_row and part.
    """
    if part_columns == 32:
        word = (x_row + part) * 16
        offset_sum, scaled_sum = word + _MINUS_8_SUM, word + _SUM_SCALED
    else:
        word = (x_row + part // 2) * 16
        offset_sum, scaled_sum = word + _MINUS_4_HALF_SUM + part % 2, word + _HALF_SCALED + part % 2
    scale = scale_of(halves, small, row, part, n_parts, row_mask, part_columns, n_halves, n_small)
    x_scale = tl.load(x_floats + word, x_mask, 0.0)
    # What a format has no use for is a number of which nothing becomes.
    offset = tl.load(x_words + offset_sum, x_mask, 0) * n_offsets if n_offsets else 0
    if n_halves == 2:
        minimum = minimum_of(halves, small, row, part, n_parts, row_mask, part_columns, n_small)
        x_sum = tl.load(x_floats + scaled_sum, x_mask, 0.0)
    else:
        minimum, x_sum = 0.0, 0.0
    return offset, scale, x_scale, minimum, x_sum


@triton.jit
def plus_part(acc, product, numbers, n_halves: tl.constexpr):
    """acc + scale * x_scale * (product + offset) + minimum * x_sum, two fused multiply-adds."""
    offset, scale, x_scale, minimum, x_sum = numbers
    acc = tl.fma((product + offset).to(tl.float32), scale * x_scale, acc)
    if n_halves == 2:
        acc = tl.fma(minimum, x_sum, acc)
    return acc
