"""matmul of block-quantized weights: block_rows.py for one token, block_tiles.py for
several, with the same bits for a token either way.

A program has a tile of rows and tokens.  Where that makes too few programs to fill the device, each
has but one run of the tile's columns, and who arrives last adds them up in order (split.py).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.block_parts import byte_tensors, constants, runs, word_tensors
from pyroclast_kernels.matmul.triton.block_rows import MOST_REGISTERS, rows_of
from pyroclast_kernels.matmul.triton.block_tiles import tiles_of
from pyroclast_kernels.matmul.triton.split import is_last, sum_of_splits
from pyroclast_kernels.norm.triton_kernels import Normed, n_blocks_of, norm_first
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.choices import TiledProduct, choose, tokens_of
from pyroclast_kernels.weights.blocks import BLOCK

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits
    from pyroclast_kernels.triton.weights import DeviceWeight

# Fewer programs than this leave the device idle: two on each of an H200's 132 multiprocessors.
ENOUGH = 264


@dataclass(frozen=True)
class BlockTile:
    """Of one program: rows, tokens (1: in registers), and how its loop is compiled."""

    rows: int
    tokens: int
    n_warps: int
    n_stages: int = 1
    unroll: int = 1


def tile_for(limit: int, format: str) -> BlockTile:
    """For a step of at most `limit` tokens.  In registers a warp has as many rows as one load of 16
    bytes a thread covers, and takes 1 KiB of each in an iteration; on tensor cores, with more
    tokens, larger tiles read less."""
    fixed = constants(format)
    if triton_device.INTERPRETED:  # a program of which takes milliseconds, whatever its size
        return BlockTile(256, 1 if limit <= 1 else 16 if limit <= 16 else 64, 4, unroll=4)
    if limit <= 1:
        return BlockTile(16 if fixed["nibbles"] else 8, 1, 4, unroll=4)
    if limit <= 16:
        return BlockTile(64, 16, 4, n_stages=6)
    if limit <= 32:
        return BlockTile(64, 32, 4, n_stages=5)
    # The largest tiles leave no registers for minimums, nor for the sums of two halves.
    if limit <= 64 or fixed["n_halves"] > 1 or fixed["part_columns"] < BLOCK:
        return BlockTile(64, 64, 8, n_stages=4)
    return BlockTile(128, 64, 16, n_stages=4)


def other_tiles(tile: BlockTile) -> list[BlockTile]:
    """What else a product of few tokens may take for that tile of its own."""
    if tile.tokens > 1:
        some = {"n_stages": max(2, tile.n_stages // 2)}, {"n_stages": tile.n_stages + 2}
        return [*(replace(tile, **each) for each in some), replace(tile, n_warps=2 * tile.n_warps)]
    found = [replace(tile, unroll=2), replace(tile, unroll=8)]
    found += [replace(tile, n_warps=n) for n in (tile.n_warps // 2, 2 * tile.n_warps)]
    return [*found, replace(tile, rows=tile.rows // 2, unroll=8)]


@triton.jit
def _finish(y, at, mask, bias, accumulate):
    """Stores y, with the bias and what is there already where they are wanted."""
    if bias is not None:
        y += bias
    if accumulate:
        y += tl.load(at, mask, 0.0).to(tl.float32)
    tl.store(at, y.to(at.dtype.element_ty), mask)


@triton.jit
def _one_token(
    n_tokens, x_words, x_floats, codes, halves, small, bias, out, scratch, counters, normed, n_rows,
    n_blocks, accumulate: tl.constexpr, n_runs: tl.constexpr, run_steps: tl.constexpr,
    shared: tl.constexpr, rows: tl.constexpr, unroll: tl.constexpr, part_columns: tl.constexpr,
    n_halves: tl.constexpr, n_small: tl.constexpr, n_offsets: tl.constexpr, nibbles: tl.constexpr,
    norm_blocks: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    if norm_blocks:
        norm_first(normed, norm_blocks)
    tile = tl.program_id(0)
    row = tile * rows + tl.arange(0, rows)
    has_row = row < n_rows
    first = tl.program_id(1)  # 0 unless shared
    y = rows_of(
        codes, halves, small, row, has_row, x_words, x_floats, 0, first, n_blocks,
        1 if shared else n_runs, run_steps, rows, unroll, part_columns, n_halves, n_small,
        n_offsets, nibbles,
    )  # fmt: skip
    b = None if bias is None else tl.load(bias + row, has_row, 0.0)
    if shared:
        stride = tl.num_programs(0) * rows
        tl.store(scratch + first * stride + row, y, has_row)
        if is_last(counters + tile, n_runs):
            y = sum_of_splits(scratch, row, has_row, stride, n_runs)
            _finish(y, out + row, has_row, b, accumulate)
    else:
        _finish(y, out + row, has_row, b, accumulate)


@triton.jit
def _tokens(
    n_tokens, x, x_words, x_floats, codes, halves, small, bias, out, scratch, counters, n_rows,
    n_blocks, out_stride, accumulate: tl.constexpr, n_runs: tl.constexpr, run_steps: tl.constexpr,
    shared: tl.constexpr, rows: tl.constexpr, tokens: tl.constexpr, part_columns: tl.constexpr,
    n_halves: tl.constexpr, n_small: tl.constexpr, n_offsets: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    count = tl.load(n_tokens)
    token = tl.program_id(1) * tokens + tl.arange(0, tokens)
    if tl.program_id(1) * tokens >= count:
        return
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    has_row, has_token = row < n_rows, token < count
    first = tl.program_id(2)  # 0 unless shared
    y = tiles_of(
        codes, halves, small, row, has_row, x, x_words, x_floats, token.to(tl.int64) * n_blocks,
        has_token, first, n_blocks, 1 if shared else n_runs, run_steps, rows, tokens, part_columns,
        n_halves, n_small, n_offsets, nibbles,
    )  # fmt: skip
    mask = has_row[:, None] & has_token[None, :]
    at = out + token.to(tl.int64)[None, :] * out_stride + row[:, None]
    b = None if bias is None else tl.load(bias + row, has_row, 0.0)[:, None]
    if shared:
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        place = tl.arange(0, rows)[:, None] * tokens + tl.arange(0, tokens)[None, :]
        partials = scratch + tile * n_runs * rows * tokens
        tl.store(partials + first * rows * tokens + place, y)
        if is_last(counters + tile, n_runs):
            y = sum_of_splits(partials, place, mask, rows * tokens, n_runs)
            _finish(y, at, mask, b, accumulate)
    else:
        _finish(y, at, mask, b, accumulate)


def launch_blocks(
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
    """reference.matmul of tensors; out float32 or bfloat16.  normed: of at most one token, x is
    what its norm will have written."""
    default = tile_for(limits.n_tokens, weight.format)
    tokens, is_normed = tokens_of(limits.n_tokens), normed is not None
    product = TiledProduct("blocks", weight.format, n_rows, n_cols, tokens, is_normed)
    tile = choose(product, limits.tuned, default, lambda: other_tiles(default), [out])
    n_runs, run_steps = runs(n_rows, n_cols)
    n_row_tiles = triton.cdiv(n_rows, tile.rows)
    n_token_tiles = triton.cdiv(max(1, limits.n_tokens), tile.tokens)
    n_tiles = n_row_tiles * n_token_tiles
    scratch_bytes = 4 * n_tiles * n_runs * tile.rows * tile.tokens
    fits = scratch_bytes <= triton_device.SCRATCH_BYTES
    shared = n_runs > 1 and n_tiles < ENOUGH and fits
    n_parts = n_runs if shared else 1
    common = {
        "bias": bias,
        "out": out,
        "scratch": triton_device.scratch().view(torch.float32),
        "counters": triton_device.counters(),
        "n_rows": n_rows,
        "n_blocks": n_cols // BLOCK,
        "accumulate": bool(accumulate),
        "n_runs": n_runs,
        "run_steps": run_steps,
        "shared": shared,
        "rows": tile.rows,
        "num_warps": tile.n_warps,
        **constants(weight.format),
    }
    if tile.tokens == 1:
        words = word_tensors(x, weight)
        _one_token[(n_row_tiles, n_parts)](
            n_tokens, *words, **common, normed=normed, unroll=tile.unroll,
            norm_blocks=n_blocks_of(n_cols) if normed else 0, maxnreg=MOST_REGISTERS,
        )  # fmt: skip
    else:
        _tokens[(n_row_tiles, n_token_tiles, n_parts)](
            n_tokens, *byte_tensors(x, weight), **common, out_stride=out_stride, tokens=tile.tokens,
            num_stages=tile.n_stages,
        )  # fmt: skip
