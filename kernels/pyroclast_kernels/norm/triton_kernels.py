"""RMS and layer norm in Triton: a program per token, its row read once and kept in registers.

A thread holds 8 columns of a row of up to 4096, 16 of 8192.  The weight is read before the sum of
squares is there, so that one token waits for memory once, not twice.

The squares are added up as integers, in units of 2^-40 of the largest one's power of two: that sum
has no order, so a row has the same RMS norm, to the bit, in whatever kernel and with however many
threads.  Kernels that read the RMS norm of one token begin with it: see norm_first.  The mean of a
layer norm is a float32 sum, so a layer norm has one kernel.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.quantize import store_quantized
from pyroclast_kernels.norm import KINDS

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

# What a kernel that norms by itself is given: norm_first's `normed`.
Normed = tuple[Any, ...]
_COLUMNS_OF_A_WARP = 256
_MAX_WARPS = 16
_LAYER = tl.constexpr(KINDS.index("layer"))


@triton.jit
def _mean_of_squares(values, d_model):
    """float32: of a whole tile, zeros beyond the row.  Infinite or NaN where a value is, or where a
    square is beyond float32."""
    squares = values * values
    # The bits of numbers that are not negative rise as they do; those of NaN are above infinity's.
    largest = tl.max(squares.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    exponent = tl.maximum(largest >> 23, 41)  # of 2^-86: whatever is smaller, eps decides
    to_units = ((294 - exponent) << 23).to(tl.float32, bitcast=True)  # 40 bits above the point
    to_value = ((exponent - 40) << 23).to(tl.float32, bitcast=True)
    finite = tl.where(squares < float("inf"), squares, 0.0)
    total = tl.sum((finite * to_units).to(tl.int64)).to(tl.float32) * to_value
    return tl.where(largest < 0x7F800000, total, largest.to(tl.float32, bitcast=True)) / d_model


@triton.jit
def _centred(values, mask, d_model):
    """A whole tile minus its mean, zeros beyond the row.  The second mean is of what is left by the
    first, whose rounding would show in rows far from zero."""
    values = tl.where(mask, values - tl.sum(values) / d_model, 0.0)
    return tl.where(mask, values - tl.sum(values) / d_model, 0.0)


@triton.jit
def normed(values, gain, shift, mask, d_model, eps, kind: tl.constexpr):
    """The norm of a whole tile that is one row, zeros beyond it.  shift: the bias, or None."""
    if kind == _LAYER:
        values = _centred(values, mask, d_model)
    y = values * tl.div_rn(1.0, tl.sqrt_rn(_mean_of_squares(values, d_model) + eps)) * gain
    if shift is not None:
        y += shift
    return y


@triton.jit
def _norm_row(
    row, token, x, weight, bias, out, out_q8, d_model, eps, kind: tl.constexpr,
    n_blocks: tl.constexpr,
):  # fmt: skip
    """Row `row` of x, normed, as row `token` of the outputs."""
    block = tl.arange(0, n_blocks)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < d_model
    values = tl.load(x + row * d_model + column, mask, 0.0).to(tl.float32)
    gain = tl.load(weight + column, mask, 0.0).to(tl.float32)
    shift = None
    if bias is not None:
        shift = tl.load(bias + column, mask, 0.0).to(tl.float32)
    y = normed(values, gain, shift, mask, d_model, eps, kind)
    if out is not None:
        tl.store(out + token * d_model + column, y.to(out.dtype.element_ty), mask)
    if out_q8 is not None:
        n = d_model // 32
        store_quantized(y, out_q8, token * n + block, block < n)


@triton.jit
def _norm(
    n_tokens, rows, x, weight, bias, out, out_q8, d_model, eps, kind: tl.constexpr,
    n_blocks: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    row = token
    if rows is not None:
        row = tl.load(rows + token).to(tl.int64)
    _norm_row(row, token, x, weight, bias, out, out_q8, d_model, eps, kind, n_blocks)


@triton.jit
def norm_first(normed, n_blocks: tl.constexpr):
    """What every program of a kernel does that reads the RMS norm of its one token: all of them
    write the same bytes, and each waits for its own alone.  normed: (rows, x, weight, out, out_q8,
    d_model, eps) of launch_norm, whose bias is None; n_blocks: n_blocks_of(d_model)."""
    rows, x, weight, out, out_q8, d_model, eps = normed
    row = 0
    if rows is not None:
        row = tl.load(rows).to(tl.int64)
    _norm_row(row, 0, x, weight, None, out, out_q8, d_model, eps, 0, n_blocks)
    tl.debug_barrier()  # from here on all threads of the program see the whole row


def launch_norm(
    limits: Limits,
    n_tokens: torch.Tensor,
    rows: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    d_model: int,
    eps: float,
    kind: int,
) -> None:
    """reference.norm of tensors; x, weight, bias and out float32 or bfloat16."""
    n_blocks = n_blocks_of(d_model)
    grid = (max(1, limits.n_tokens),)
    _norm[grid](
        n_tokens, rows, x, weight, bias, out, out_q8, d_model, eps, kind, n_blocks,
        num_warps=n_warps_of(32 * n_blocks),
    )  # fmt: skip


def n_blocks_of(d_model: int) -> int:
    """Blocks of 32 columns in a row's tile: a power of two."""
    return int(triton.next_power_of_2(triton.cdiv(d_model, 32)))


def n_warps_of(n_columns: int) -> int:
    """Warps of a program that holds a row of that many columns."""
    return min(_MAX_WARPS, max(1, n_columns // _COLUMNS_OF_A_WARP))
