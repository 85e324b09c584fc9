"""Products of f32, f16 and bf16 weights in Triton: out^T = weight . x^T, tile by tile.

The weight comes first in the dot, since the tensor cores of Hopper (wgmma) want 64 rows there and
are content with 16 columns: one kernel serves one token and thousands.  A program walks all of k,
so a token's bits depend neither on how many tokens there are nor on the tile: wgmma adds 16 columns
at a time (8 in tf32) to the accumulator, a fused multiply-add one, always in rising order.

What enters the dot: bf16 both ways, x rounded to it; f16 as tf32, which holds every float16, x cut
to its 11 bits but not to float16's range; f32 as it is, on the plain multipliers.

Tiles come through Hopper's copy engine (TMA) where both operands are bfloat16 and rows begin on 16
bytes: one thread asks for a tile, and what lies beyond a tensor's shape arrives as zeros without
being read.  So the rest of a tile costs nothing: for few tokens the weight is presented as a stack
of matrices of `rows` rows each, and x ends at Limits.n_tokens.  Otherwise every thread copies its
16 bytes (cp.async), or less where rows are not aligned, under masks.  Triton 3.6 gives neither
kind of copy an eviction policy, so weights that are read once do not say so.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from pyroclast_kernels import triton_device
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul.triton_tiles import Tile, architecture, tile_of

if TYPE_CHECKING:
    from pyroclast_kernels.matmul.triton_weights import DeviceWeight
    from pyroclast_kernels.triton_launch import Limits

# Row tiles that follow one another before the next token tile: 16 of 128 rows and 8 of 256 tokens
# run at a time, and read the least that so many tiles can.
_MOST_HIGH = 16
_MOST_COLS = 1 << 22  # offsets inside a tile are 32-bit
_FIRST_WITH_TMA = 90
_ALIGNED_BYTES = 16  # of the copy engine's addresses and strides


@triton.jit(do_not_specialize=["row_octets", "n_row_tiles", "n_token_tiles"])
def _product(
    n_tokens, x, weight, bias, out, n_rows, x_stride, out_stride, row_octets, n_row_tiles,
    n_token_tiles, n_cols: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    block_k: tl.constexpr, most_high: tl.constexpr, accumulate: tl.constexpr, dot: tl.constexpr,
    precision: tl.constexpr, tma: tl.constexpr,
):  # fmt: skip
    """One tile: block_m rows, of which the first 8 * row_octets are its own, by block_n tokens.
    tma: x and weight are tensor descriptors, else pointers."""
    rows = row_octets * 8  # a multiple of 8 as the compiler sees it: stores of 16 bytes
    n_used = tl.load(n_tokens)
    first_row_tile = tl.program_id(0) // (most_high * n_token_tiles) * most_high
    within = tl.program_id(0) % (most_high * n_token_tiles)
    high = tl.minimum(n_row_tiles - first_row_tile, most_high)
    row_tile = first_row_tile + within % high
    row_start, token_start = row_tile * rows, (within // high) * block_n
    if token_start >= n_used:
        return
    m, n, k = tl.arange(0, block_m), tl.arange(0, block_n), tl.arange(0, block_k)
    has_row = (m < rows) & (row_start + m < n_rows)
    has_token = token_start + n < n_used
    if not tma:
        w_at = weight + row_start.to(tl.int64) * n_cols + (m[:, None] * n_cols + k[None, :])
        x_at = x + token_start.to(tl.int64) * x_stride + (n[None, :] * x_stride + k[:, None])
    y = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, n_cols, block_k):
        if tma:
            # Of a stack, or, where its rows fill tiles, of the one matrix in it.
            in_stack = rows < block_m
            at = [row_tile * in_stack, row_start * (1 - in_stack), start]
            w_tile = weight.load(at).reshape(block_m, block_k)
            x_tile = x.load([token_start, start]).T
        else:
            w_mask, x_mask = has_row[:, None], has_token[None, :]
            if n_cols % block_k != 0:
                w_mask &= (start + k < n_cols)[None, :]
                x_mask &= (start + k < n_cols)[:, None]
            w_tile = tl.load(w_at, mask=w_mask, other=0.0)
            x_tile = tl.load(x_at, mask=x_mask, other=0.0)
            w_at += block_k
            x_at += block_k
        y = tl.dot(w_tile.to(dot), x_tile.to(dot), y, input_precision=precision)
    y = tl.trans(y)
    row, token = row_start + m, (token_start + n).to(tl.int64)
    mask = has_token[:, None] & has_row[None, :]
    out_at = out + token[:, None] * out_stride + row[None, :]
    if bias is not None:
        y += tl.load(bias + row, mask=has_row, other=0.0)[None, :]
    if accumulate:
        y += tl.load(out_at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_at, y.to(out.dtype.element_ty), mask=mask)


def launch_values(
    limits: Limits,
    *,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    weight: DeviceWeight,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    n_rows: int,
    n_cols: int,
    out_stride: int,
    accumulate: int,
) -> None:
    """reference.matmul of tensors for f32, f16 and bf16 weights; x and out float32 or bfloat16,
    x's rows at any distance.  KernelError for sizes that do not fit together."""
    _check(limits, x, weight, n_rows, n_cols, out_stride)
    if limits.n_tokens < 1:
        return
    by_tma = _takes_tma(x, weight)
    tile = tile_of(weight.format, x.element_size(), n_rows, limits.n_tokens, by_tma)
    n_row_tiles, n_token_tiles = -(-n_rows // tile.rows), -(-limits.n_tokens // tile.n)
    operands = _descriptors(limits, x, weight, tile) if by_tma else (x, weight.values)
    _product[(n_row_tiles * n_token_tiles,)](
        n_tokens,
        *operands,
        bias,
        out,
        n_rows,
        x.stride(0),
        out_stride,
        tile.rows // 8,
        n_row_tiles,
        n_token_tiles,
        n_cols=n_cols,
        block_m=tile.m,
        block_n=tile.n,
        block_k=tile.k,
        most_high=_MOST_HIGH,
        accumulate=bool(accumulate),
        dot=triton_device.dot_dtype("bf16" if weight.format == "bf16" else "f32"),
        precision="ieee" if weight.format == "f32" else "tf32",
        tma=by_tma,
        num_warps=tile.n_warps,
        num_stages=tile.n_stages,
    )


def _takes_tma(x: torch.Tensor, weight: DeviceWeight) -> bool:
    """Whether the copy engine can bring the tiles, and nothing has to be rounded on the way."""
    if architecture() < _FIRST_WITH_TMA or x.dtype != torch.bfloat16 or weight.format != "bf16":
        return False
    begins = (x.data_ptr(), weight.tensors[0].data_ptr())
    strides = (2 * x.stride(0), 2 * weight.n_cols)
    return all(n_bytes % _ALIGNED_BYTES == 0 for n_bytes in begins + strides)


def _descriptors(limits: Limits, x: torch.Tensor, weight: DeviceWeight, tile: Tile) -> list[Any]:
    """What the copy engine is told of x and of the weight: shapes, strides, and its tiles."""
    n_rows, n_cols = weight.n_rows, weight.n_cols
    n_tokens = min(limits.n_tokens, x.shape[0])
    stack = [n_rows // tile.rows, tile.rows] if tile.rows < tile.m else [1, n_rows]
    return [
        TensorDescriptor(x, [n_tokens, n_cols], [x.stride(0), 1], [tile.n, tile.k]),
        TensorDescriptor(
            weight.values,
            [*stack, n_cols],
            [stack[1] * n_cols, n_cols, 1],
            [1, tile.m, tile.k],
        ),
    ]


def _check(
    limits: Limits, x: Any, weight: DeviceWeight, n_rows: int, n_cols: int, out_stride: int
) -> None:
    if weight.values is None or (weight.n_rows, weight.n_cols) != (n_rows, n_cols):
        raise KernelError(
            f"a product of {n_rows} x {n_cols} values needs such a weight, got one of "
            f"{weight.n_rows} x {weight.n_cols} in {weight.format}"
        )
    if x.ndim != 2 or x.shape[1] != n_cols or x.stride(1) != 1 or not x.is_floating_point():
        raise KernelError(
            f"x must be (n_tokens, {n_cols}), floating point, columns adjacent; got {x.dtype} "
            f"{tuple(x.shape)}, strides {x.stride()}"
        )
    if out_stride < n_rows:
        raise KernelError(f"rows of out are {n_rows} long, but only {out_stride} apart")
    if max(n_cols, x.stride(0)) > _MOST_COLS or limits.n_tokens * n_rows >= 1 << 40:
        raise KernelError(
            f"a product has at most {_MOST_COLS} columns and 2^40 results, got {n_cols} columns "
            f"{x.stride(0)} apart, {limits.n_tokens} tokens and {n_rows} rows"
        )
