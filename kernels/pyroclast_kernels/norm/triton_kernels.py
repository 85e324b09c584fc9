"""RMS norm in Triton: a program per token, its row read once and kept in registers.

A thread holds 8 columns of a row of up to 4096, 16 of 8192.  The weight is read before the sum of
squares is there, so that one token waits for memory once, not twice.

The squares are added up as integers, in units of 2^-40 of the largest one's power of two: that sum
has no order, so a row has the same bits in whatever kernel, and with however many threads, it is
normed.  Kernels that read the norm of one token begin with it: see norm_first.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.quantize import store_quantized

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

# What a kernel that norms by itself is given: norm_first's `normed`.
Normed = tuple[Any, ...]
_COLUMNS_OF_A_WARP = 256
_MAX_WARPS = 16


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
def _norm_row(row, token, x, weight, out, out_q8, d_model, eps, n_blocks: tl.constexpr):
    """Row `row` of x, normed, as row `token` of the outputs."""
    block = tl.arange(0, n_blocks)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < d_model
    values = tl.load(x + row * d_model + column, mask, 0.0).to(tl.float32)
    gain = tl.load(weight + column, mask, 0.0).to(tl.float32)
    y = values * tl.div_rn(1.0, tl.sqrt_rn(_mean_of_squares(values, d_model) + eps)) * gain
    if out is not None:
        tl.store(out + token * d_model + column, y.to(out.dtype.element_ty), mask)
    if out_q8 is not None:
        n = d_model // 32
        store_quantized(y, out_q8, token * n + block, block < n)


@triton.jit
def _norm(n_tokens, rows, x, weight, out, out_q8, d_model, eps, n_blocks: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    row = token
    if rows is not None:
        row = tl.load(rows + token).to(tl.int64)
    _norm_row(row, token, x, weight, out, out_q8, d_model, eps, n_blocks)


@triton.jit
def norm_first(normed, n_blocks: tl.constexpr):
    """What every program of a kernel does that reads the norm of its one token: all of them write
    the same bytes, and each waits for its own alone.  normed: (rows, x, weight, out, out_q8,
    d_model, eps) of launch_norm; n_blocks: n_blocks_of(d_model)."""
    rows, x, weight, out, out_q8, d_model, eps = normed
    row = 0
    if rows is not None:
        row = tl.load(rows).to(tl.int64)
    _norm_row(row, 0, x, weight, out, out_q8, d_model, eps, n_blocks)
    tl.debug_barrier()  # from here on all threads of the program see the whole row


def launch_norm(
    limits: Limits,
    n_tokens: torch.Tensor,
    rows: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    d_model: int,
    eps: float,
) -> None:
    """reference.norm of tensors; x, weight and out float32 or bfloat16."""
    n_blocks = n_blocks_of(d_model)
    n_warps = min(_MAX_WARPS, max(1, 32 * n_blocks // _COLUMNS_OF_A_WARP))
    grid = (max(1, limits.n_tokens),)
    _norm[grid](n_tokens, rows, x, weight, out, out_q8, d_model, eps, n_blocks, num_warps=n_warps)


def n_blocks_of(d_model: int) -> int:
    """Blocks of 32 columns in a row's tile: a power of two."""
    return int(triton.next_power_of_2(triton.cdiv(d_model, 32)))
