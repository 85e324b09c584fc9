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

from pyroclast_kernels.activation.triton.gate import gated
from pyroclast_kernels.activation.triton.quantize import store_quantized
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul.triton.tiles import ValueTile, architecture, other_tiles, tile_of
from pyroclast_kernels.norm.triton_kernels import Normed, n_blocks_of, norm_first
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.choices import TiledProduct, choose, tokens_of

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits
    from pyroclast_kernels.triton.weights import DeviceWeight

# Row tiles that follow one another before the next token tile: 16 of 128 rows and 8 of 256 tokens
# run at a time, and read the least that so many tiles can.
_MOST_HIGH = 16
_MOST_COLS = 1 << 22  # offsets inside a tile are 32-bit
_FIRST_WITH_TMA = 90
_ALIGNED_BYTES = 16  # of the copy engine's addresses and strides


@triton.jit
def _sums(
    x, weight, row_tile, row_start, token_start, n_used, rows, n_rows, x_stride,
    n_cols: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
    dot: tl.constexpr, precision: tl.constexpr, tma: tl.constexpr, x_tma: tl.constexpr,
    parts: tl.constexpr,
):  # fmt: skip
    """float32 (block_m, block_n): the products of a tile; see _product."""
    part_m: tl.constexpr = block_m // parts
    m, n, k = tl.arange(0, block_m), tl.arange(0, block_n), tl.arange(0, block_k)
    if not tma:
        row = row_start + m % part_m + m // part_m * n_rows
        w_mask = ((m % part_m < rows) & (row_start + m % part_m < n_rows))[:, None]
        w_at = weight + (row.to(tl.int64) * n_cols)[:, None] + k[None, :]
    if not x_tma:
        x_mask = (token_start + n < n_used)[None, :]
        x_at = x + token_start.to(tl.int64) * x_stride + (n[None, :] * x_stride + k[:, None])
    y = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, n_cols, block_k):
        inside = start + k < n_cols
        if tma:
            # Of a stack, or, where its rows fill tiles, of the one matrix in it.
            in_stack = rows < part_m
            at = [0, row_tile * in_stack, row_start * (1 - in_stack), start]
            w_tile = weight.load(at).reshape(block_m, block_k)
        else:
            mask = w_mask if n_cols % block_k == 0 else w_mask & inside[None, :]
            w_tile = tl.load(w_at + start, mask=mask, other=0.0)
        if x_tma:
            x_tile = x.load([token_start, start]).T
        else:
            mask = x_mask if n_cols % block_k == 0 else x_mask & inside[:, None]
            x_tile = tl.load(x_at + start, mask=mask, other=0.0)
        y = tl.dot(w_tile.to(dot), x_tile.to(dot), y, input_precision=precision)
    return y


@triton.jit
def _store(
    y, bias, out, out_q8, row_start, token_start, n_used, rows, n_rows, out_stride,
    accumulate: tl.constexpr,
):  # fmt: skip
    """The outputs of y float32 (tokens, rows of a tile), of which the first `rows` count."""
    i = tl.arange(0, y.shape[1])
    row = row_start + i
    token = (token_start + tl.arange(0, y.shape[0])).to(tl.int64)
    has_row, has_token = (i < rows) & (row < n_rows), token < n_used
    if bias is not None:
        y += tl.load(bias + row, mask=has_row, other=0.0)[None, :]
    if out is not None:
        mask = has_token[:, None] & has_row[None, :]
        at = out + token[:, None] * out_stride + row[None, :]
        if accumulate:
            y += tl.load(at, mask=mask, other=0.0).to(tl.float32)
        tl.store(at, y.to(out.dtype.element_ty), mask=mask)
    if out_q8 is not None:
        block = row_start // 32 + tl.arange(0, y.shape[1] // 32)
        mask = has_token[:, None] & (block < n_rows // 32)[None, :]
        at = token[:, None] * (n_rows // 32) + block[None, :]
        store_quantized(tl.reshape(y, (y.shape[0], y.shape[1] // 32, 32)), out_q8, at, mask)


@triton.jit(do_not_specialize=["row_octets", "n_row_tiles", "n_token_tiles"])
def _product(
    n_tokens, x, weight, bias, out, out_q8, normed, n_rows, x_stride, out_stride, row_octets,
    n_row_tiles, n_token_tiles, n_cols: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    block_k: tl.constexpr, most_high: tl.constexpr, accumulate: tl.constexpr, dot: tl.constexpr,
    precision: tl.constexpr, tma: tl.constexpr, x_tma: tl.constexpr, parts: tl.constexpr,
    activation: tl.constexpr, norm_blocks: tl.constexpr,
):  # fmt: skip
    """One tile: `parts` times block_m / parts rows, of which the first 8 * row_octets are its own,
    by block_n tokens.  Part 1 are rows n_rows further on, and the result is the parts' `glu`.
    tma, x_tma: weight, x are tensor descriptors, else pointers."""
    rows = row_octets * 8  # a multiple of 8 as the compiler sees it: stores of 16 bytes
    n_used = tl.load(n_tokens)
    first_row_tile = tl.program_id(0) // (most_high * n_token_tiles) * most_high
    within = tl.program_id(0) % (most_high * n_token_tiles)
    high = tl.minimum(n_row_tiles - first_row_tile, most_high)
    row_tile = first_row_tile + within % high
    row_start, token_start = row_tile * rows, (within // high) * block_n
    if token_start >= n_used:
        return
    if norm_blocks:
        norm_first(normed, norm_blocks)
    y = _sums(
        x, weight, row_tile, row_start, token_start, n_used, rows, n_rows, x_stride, n_cols,
        block_m, block_n, block_k, dot, precision, tma, x_tma, parts,
    )  # fmt: skip
    if parts == 2:
        pairs = tl.permute(tl.reshape(y, (2, block_m // 2, block_n)), (2, 1, 0))
        gate, up = tl.split(pairs)
        y = gated(gate, up, activation)
    else:
        y = tl.trans(y)
    _store(
        y, bias, out, out_q8, row_start, token_start, n_used, rows, n_rows, out_stride, accumulate
    )


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
    normed: Normed | None = None,
) -> None:
    """reference.matmul of tensors for f32, f16 and bf16 weights; x and out float32 or bfloat16,
    x's rows at any distance.  normed: of at most one token, x is what its norm will have written.
    KernelError for sizes that do not fit together."""
    _check(limits, x, weight, n_rows, n_cols, out_stride)
    results = {"bias": bias, "out": out, "out_q8": None, "accumulate": bool(accumulate)}
    _launch(limits, n_tokens, x, weight, n_rows, out_stride, normed, results)


def launch_gated(
    limits: Limits,
    *,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    weight: DeviceWeight,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    d_ff: int,
    n_cols: int,
    activation: int,
    normed: Normed | None = None,
) -> None:
    """matmul, then glu, in one kernel and to the same bits: launch_values of a weight of
    2 * d_ff rows, and reference.glu of its result."""
    _check(limits, x, weight, 2 * d_ff, n_cols, 2 * d_ff)
    results = {"bias": None, "out": out, "out_q8": out_q8, "accumulate": False}
    _launch(limits, n_tokens, x, weight, d_ff, d_ff, normed, results, 2, activation)


def _launch(
    limits: Limits, n_tokens: Any, x: Any, weight: DeviceWeight, n_rows: int, out_stride: int,
    normed: Normed | None, results: dict[str, Any], parts: int = 1, activation: int = 0,
) -> None:  # fmt: skip
    """n_rows: of the result."""
    if limits.n_tokens < 1:
        return
    n_cols, by_tma = weight.n_cols, _takes_tma(x, weight)
    whole = results["out_q8"] is not None  # blocks, which are not shared among programs
    default = tile_of(
        weight.format, x.element_size(), n_rows, limits.n_tokens, by_tma, parts, whole
    )
    kernel, n_tokens_class = "gated" if parts == 2 else "values", tokens_of(limits.n_tokens)
    tile = choose(
        TiledProduct(kernel, weight.format, n_rows, n_cols, n_tokens_class, normed is not None),
        limits.tuned,
        default,
        lambda: other_tiles(default, n_rows, parts, by_tma, whole),
        (results["out"], results["out_q8"]),
    )
    n_row_tiles, n_token_tiles = -(-n_rows // tile.rows), -(-limits.n_tokens // tile.n)
    x_by_tma = by_tma and normed is None  # which would not see what threads have just written
    _product[(n_row_tiles * n_token_tiles,)](
        n_tokens,
        _tokens_of(limits, x, tile) if x_by_tma else x,
        _rows_of(weight, tile, parts) if by_tma else weight.values,
        results["bias"],
        results["out"],
        results["out_q8"],
        normed,
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
        accumulate=results["accumulate"],
        dot=triton_device.dot_dtype("bf16" if weight.format == "bf16" else "f32"),
        precision="ieee" if weight.format == "f32" else "tf32",
        tma=by_tma,
        x_tma=x_by_tma,
        parts=parts,
        activation=activation,
        norm_blocks=n_blocks_of(n_cols) if normed else 0,
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


def _tokens_of(limits: Limits, x: torch.Tensor, tile: ValueTile) -> Any:
    """What the copy engine is told of x: shape, strides, and its tiles."""
    shape = [min(limits.n_tokens, x.shape[0]), x.shape[1]]
    return TensorDescriptor(x, shape, [x.stride(0), 1], [tile.n, tile.k])


def _rows_of(weight: DeviceWeight, tile: ValueTile, parts: int) -> Any:
    """The same of the weight: parts, each a stack of matrices of the tile's rows or one matrix."""
    n_rows, n_cols, part_m = weight.n_rows // parts, weight.n_cols, tile.m // parts
    high, rows = (n_rows // tile.rows, tile.rows) if tile.rows < part_m else (1, n_rows)
    return TensorDescriptor(
        weight.values,
        [parts, high, rows, n_cols],
        [n_rows * n_cols, rows * n_cols, n_cols, 1],
        [parts, 1, part_m, tile.k],
    )


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
