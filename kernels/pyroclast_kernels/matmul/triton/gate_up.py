"""gate_up: two products of block-quantized weights and their gated linear unit in one kernel.

The sums, to the bit, of matmul (blocks.py) and the result of glu; this saves writing and reading
both products, and two launches.  A program has 32 rows of the gate, or 64, and
the same ones of up, hence whole blocks of the result: it can quantize them itself.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.gate import gated
from pyroclast_kernels.activation.triton.quantize import store_quantized
from pyroclast_kernels.matmul.triton.block_parts import (
    byte_tensors,
    constants,
    runs,
    word_tensors,
)
from pyroclast_kernels.matmul.triton.block_rows import MOST_REGISTERS, rows_of
from pyroclast_kernels.matmul.triton.block_tiles import tiles_of
from pyroclast_kernels.matmul.triton.blocks import BlockTile, other_tiles, tile_for
from pyroclast_kernels.norm.triton_kernels import Normed, n_blocks_of, norm_first
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.choices import TiledProduct, choose, tokens_of
from pyroclast_kernels.weights.blocks import BLOCK

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits
    from pyroclast_kernels.triton.weights import DeviceWeight


@triton.jit
def _store(y, out, out_q8, token, has_token, column, d_ff):
    """y (tokens, columns), whole blocks of 32; column: the first of each block."""
    n_blocks: tl.constexpr = y.shape[1] // 32
    y = tl.reshape(y, (y.shape[0], n_blocks, 32))
    mask = has_token[:, None] & (column < d_ff)[None, :]
    if out is not None:
        at = column[None, :, None] + tl.arange(0, 32)[None, None, :]
        value_mask = has_token[:, None, None] & (at < d_ff)
        at = out + token[:, None, None] * d_ff + at
        tl.store(at, y.to(out.dtype.element_ty), value_mask)
    if out_q8 is not None:
        block = token[:, None] * (d_ff // 32) + (column // 32)[None, :]
        store_quantized(y, out_q8, block, mask)


@triton.jit
def _one_token(
    n_tokens, x_words, x_floats, codes, halves, small, out, out_q8, sums, normed, d_ff, n_blocks,
    n_runs: tl.constexpr, run_steps: tl.constexpr, rows: tl.constexpr, unroll: tl.constexpr,
    part_columns: tl.constexpr, n_halves: tl.constexpr, n_small: tl.constexpr,
    n_offsets: tl.constexpr, nibbles: tl.constexpr, activation: tl.constexpr,
    norm_blocks: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    if norm_blocks:
        norm_first(normed, norm_blocks)
    first = tl.program_id(0) * 32
    sums += tl.program_id(0) * 64
    per_half: tl.constexpr = 32 // rows
    for i in range(2 * per_half):
        row = first + i % per_half * rows + tl.arange(0, rows)
        has_row = row < d_ff
        y = rows_of(
            codes, halves, small, row + i // per_half * d_ff, has_row, x_words, x_floats, 0,
            tl.program_id(1), n_blocks, n_runs, run_steps, rows, unroll, part_columns, n_halves,
            n_small, n_offsets, nibbles,
        )  # fmt: skip
        tl.store(sums + i * rows + tl.arange(0, rows), y)
    tl.debug_barrier()  # from here on all threads see all 64 sums
    i = tl.arange(0, 32)
    y = gated(tl.load(sums + i), tl.load(sums + 32 + i), activation)[None, :]
    token = tl.zeros((1,), tl.int64)
    _store(y, out, out_q8, token, token == 0, first + tl.zeros((1,), tl.int32), d_ff)


@triton.jit
def _tokens(
    n_tokens, x, x_words, x_floats, codes, halves, small, out, out_q8, d_ff, n_blocks,
    n_runs: tl.constexpr, run_steps: tl.constexpr, rows: tl.constexpr, tokens: tl.constexpr,
    part_columns: tl.constexpr, n_halves: tl.constexpr, n_small: tl.constexpr,
    n_offsets: tl.constexpr, nibbles: tl.constexpr, activation: tl.constexpr,
):  # fmt: skip
    count = tl.load(n_tokens)
    if tl.program_id(1) * tokens >= count:
        return
    token = (tl.program_id(1) * tokens + tl.arange(0, tokens)).to(tl.int64)
    half: tl.constexpr = rows // 2
    first = tl.program_id(0) * half
    i = tl.arange(0, rows)
    row = first + i % half
    has_row, has_token = row < d_ff, token < count
    y = tiles_of(
        codes, halves, small, row + i // half * d_ff, has_row, x, x_words, x_floats,
        token * n_blocks, has_token, tl.program_id(2), n_blocks, n_runs, run_steps, rows, tokens,
        part_columns, n_halves, n_small, n_offsets, nibbles,
    )  # fmt: skip
    pairs = tl.permute(tl.reshape(y, (2, half, tokens)), (2, 1, 0))
    gate, up = tl.split(pairs)  # (tokens, half)
    column = first + tl.arange(0, half // 32) * 32
    _store(gated(gate, up, activation), out, out_q8, token, has_token, column, d_ff)


def _tile_for(limit: int, format: str) -> BlockTile:
    """As for matmul; a program with one token takes all its 64 rows in a few goes."""
    tile = tile_for(limit, format)
    if tile.tokens > 1:
        return tile
    rows = 32 if triton_device.INTERPRETED else 2 * tile.rows
    return BlockTile(rows, 1, 2 * tile.n_warps, unroll=tile.unroll)


def launch_gate_up(
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
    """reference.gate_up of tensors; out float32 or bfloat16.  normed: as launch_blocks."""
    default = _tile_for(limits.n_tokens, weight.format)
    tokens, is_normed = tokens_of(limits.n_tokens), normed is not None
    product = TiledProduct("gate_up", weight.format, d_ff, n_cols, tokens, is_normed)
    tile = choose(product, limits.tuned, default, lambda: other_tiles(default), (out, out_q8))
    n_runs, run_steps = runs(2 * d_ff, n_cols)
    common = {
        "out": out,
        "out_q8": out_q8,
        "d_ff": d_ff,
        "n_blocks": n_cols // BLOCK,
        "n_runs": n_runs,
        "run_steps": run_steps,
        "rows": tile.rows,
        "activation": activation,
        "num_warps": tile.n_warps,
        **constants(weight.format),
    }
    if tile.tokens == 1:
        sums = triton_device.scratch().view(torch.float32)
        _one_token[(triton.cdiv(d_ff, BLOCK), 1)](
            n_tokens, *word_tensors(x, weight), **common, sums=sums, normed=normed,
            unroll=tile.unroll, norm_blocks=n_blocks_of(n_cols) if normed else 0,
            maxnreg=MOST_REGISTERS,
        )  # fmt: skip
    else:
        grid = triton.cdiv(2 * d_ff, tile.rows), triton.cdiv(limits.n_tokens, tile.tokens), 1
        _tokens[grid](
            n_tokens, *byte_tensors(x, weight), **common, tokens=tile.tokens,
            num_stages=tile.n_stages,
        )  # fmt: skip
