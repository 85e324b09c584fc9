"""expert_gate_up and expert_down of block-quantized weights in Triton: the sums of
matmul/triton/block_rows.py for one pair and of block_tiles.py for several, with the same bits.

A program has a tile of rows and pairs of one expert; of gate and up the same rows, hence whole
blocks of the result, which it can quantize itself.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from pyroclast_kernels.experts import stacked_rows
from pyroclast_kernels.experts.triton.pairs import (
    n_tiles,
    share_of,
    store_down,
    store_gated,
    tile_at,
)
from pyroclast_kernels.matmul.triton.block_parts import byte_tensors, constants, runs, word_tensors
from pyroclast_kernels.matmul.triton.block_rows import MOST_REGISTERS, rows_of
from pyroclast_kernels.matmul.triton.block_tiles import tiles_of
from pyroclast_kernels.matmul.triton.blocks import BlockTile, tile_for
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.weights.blocks import BLOCK

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits
    from pyroclast_kernels.triton.weights import DeviceWeight


@triton.jit
def _gate_up_of_one(
    n_tokens, order, starts, x_words, x_floats, codes, halves, small, bias, out, out_q8, sums,
    n_experts, n_active, d_ff, stride, n_blocks, limit, up_offset, n_runs: tl.constexpr,
    run_steps: tl.constexpr, rows: tl.constexpr, unroll: tl.constexpr,
    block_experts: tl.constexpr, part_columns: tl.constexpr, n_halves: tl.constexpr,
    n_small: tl.constexpr, n_offsets: tl.constexpr, nibbles: tl.constexpr, gated: tl.constexpr,
    has_limit: tl.constexpr, has_offset: tl.constexpr, activation: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    expert, pair, has_pair = tile_at(starts, order, tl.program_id(1), n_experts, 1, block_experts)
    if expert >= n_experts:
        return
    first = tl.program_id(0) * 32
    sums += (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) * 64
    x_row = (tl.sum(pair) // n_active).to(tl.int64) * n_blocks
    base = expert.to(tl.int64) * (1 + gated) * stride
    per_half: tl.constexpr = 32 // rows
    for i in range((1 + gated) * per_half):
        row = first + i % per_half * rows + tl.arange(0, rows)
        y = rows_of(
            codes, halves, small, base + row + i // per_half * stride, row < d_ff, x_words,
            x_floats, x_row, 0, n_blocks, n_runs, run_steps, rows, unroll, part_columns, n_halves,
            n_small, n_offsets, nibbles,
        )  # fmt: skip
        tl.store(sums + i * rows + tl.arange(0, rows), y)
    tl.debug_barrier()  # from here on all threads see all sums
    gate = tl.load(sums + tl.arange(0, 32))[None, :]
    up = tl.load(sums + 32 * gated + tl.arange(0, 32))[None, :]
    store_gated(
        gate, up, bias, out, out_q8, expert, pair, has_pair, first, d_ff, limit, up_offset, gated,
        has_limit, has_offset, activation,
    )  # fmt: skip


@triton.jit
def _gate_up_of_many(
    n_tokens, order, starts, x, x_words, x_floats, codes, halves, small, bias, out, out_q8,
    n_experts, n_active, d_ff, stride, n_blocks, limit, up_offset, n_runs: tl.constexpr,
    run_steps: tl.constexpr, rows: tl.constexpr, tokens: tl.constexpr,
    block_experts: tl.constexpr, part_columns: tl.constexpr, n_halves: tl.constexpr,
    n_small: tl.constexpr, n_offsets: tl.constexpr, nibbles: tl.constexpr, gated: tl.constexpr,
    has_limit: tl.constexpr, has_offset: tl.constexpr, activation: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    expert, pair, has_pair = tile_at(
        starts, order, tl.program_id(1), n_experts, tokens, block_experts
    )
    if expert >= n_experts:
        return
    half: tl.constexpr = rows // (1 + gated)
    first = tl.program_id(0) * half
    i = tl.arange(0, rows)
    row = first + i % half
    base = expert.to(tl.int64) * (1 + gated) * stride
    y = tiles_of(
        codes, halves, small, base + row + i // half * stride, row < d_ff, x, x_words, x_floats,
        (pair // n_active).to(tl.int64) * n_blocks, has_pair, 0, n_blocks, n_runs, run_steps, rows,
        tokens, part_columns, n_halves, n_small, n_offsets, nibbles,
    )  # fmt: skip
    if gated:
        gate, up = tl.split(tl.permute(tl.reshape(y, (2, half, tokens)), (2, 1, 0)))
    else:
        gate = tl.trans(y)
        up = gate
    store_gated(
        gate, up, bias, out, out_q8, expert, pair, has_pair, first, d_ff, limit, up_offset, gated,
        has_limit, has_offset, activation,
    )  # fmt: skip


@triton.jit
def _down_of_one(
    n_tokens, order, starts, x_words, x_floats, codes, halves, small, bias, out, n_experts, n_rows,
    stride, n_blocks, n_runs: tl.constexpr, run_steps: tl.constexpr, rows: tl.constexpr,
    unroll: tl.constexpr, block_experts: tl.constexpr, part_columns: tl.constexpr,
    n_halves: tl.constexpr, n_small: tl.constexpr, n_offsets: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    expert, pair, has_pair = tile_at(starts, order, tl.program_id(1), n_experts, 1, block_experts)
    if expert >= n_experts:
        return
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    y = rows_of(
        codes, halves, small, expert.to(tl.int64) * stride + row, row < n_rows, x_words, x_floats,
        tl.sum(pair).to(tl.int64) * n_blocks, 0, n_blocks, n_runs, run_steps, rows, unroll,
        part_columns, n_halves, n_small, n_offsets, nibbles,
    )  # fmt: skip
    store_down(y[:, None], bias, out, expert, pair, has_pair, row, row < n_rows, n_rows)


@triton.jit
def _down_of_many(
    n_tokens, order, starts, x, x_words, x_floats, codes, halves, small, bias, out, n_experts,
    n_rows, stride, n_blocks, n_runs: tl.constexpr, run_steps: tl.constexpr, rows: tl.constexpr,
    tokens: tl.constexpr, block_experts: tl.constexpr, part_columns: tl.constexpr,
    n_halves: tl.constexpr, n_small: tl.constexpr, n_offsets: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    expert, pair, has_pair = tile_at(
        starts, order, tl.program_id(1), n_experts, tokens, block_experts
    )
    if expert >= n_experts:
        return
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    y = tiles_of(
        codes, halves, small, expert.to(tl.int64) * stride + row, row < n_rows, x, x_words,
        x_floats, pair.to(tl.int64) * n_blocks, has_pair, 0, n_blocks, n_runs, run_steps, rows,
        tokens, part_columns, n_halves, n_small, n_offsets, nibbles,
    )  # fmt: skip
    store_down(y, bias, out, expert, pair, has_pair, row, row < n_rows, n_rows)


def _tile(limits: Limits, n_experts: int, n_active: int, format: str) -> BlockTile:
    """A single token has one pair with each of its experts; else as matmul of an average share."""
    if limits.n_tokens <= 1:
        return tile_for(1, format)
    return tile_for(max(2, share_of(limits, n_experts, n_active)), format)


def _launch(
    kernels: tuple[Any, Any], limits: Limits, tile: BlockTile, n_row_tiles: int, n_rows: int,
    x: torch.Tensor, weight: DeviceWeight, n_experts: int, n_active: int, results: dict[str, Any],
) -> None:  # fmt: skip
    """kernels: for one pair a program, and for several; n_rows: for which the runs are chosen."""
    n_runs, run_steps = runs(n_rows, weight.n_cols)
    grid = n_row_tiles, max(1, n_tiles(limits, n_experts, n_active, tile.tokens))
    common = results | {
        "n_experts": n_experts,
        "n_blocks": weight.n_cols // BLOCK,
        "n_runs": n_runs,
        "run_steps": run_steps,
        "rows": tile.rows,
        "block_experts": int(triton.next_power_of_2(n_experts)),
        "num_warps": tile.n_warps,
        **constants(weight.format),
    }
    if tile.tokens == 1:
        names = ("x_words", "x_floats", "codes", "halves", "small")
        tensors = dict(zip(names, word_tensors(x, weight), strict=True))
        kernels[0][grid](**tensors, **common, unroll=tile.unroll, maxnreg=MOST_REGISTERS)
    else:
        names = ("x", "x_words", "x_floats", "codes", "halves", "small")  # type: ignore[assignment]
        tensors = dict(zip(names, byte_tensors(x, weight), strict=True))
        kernels[1][grid](**tensors, **common, tokens=tile.tokens, num_stages=tile.n_stages)


def launch_block_gate_up(
    limits: Limits,
    *,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    weight: DeviceWeight,
    bias: torch.Tensor | None,
    order: torch.Tensor,
    starts: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    n_experts: int,
    n_active: int,
    d_ff: int,
    n_cols: int,
    activation: int,
    gated: int,
    limit: float,
    up_offset: float,
) -> None:
    """reference.expert_gate_up of tensors; out float32 or bfloat16."""
    assert n_cols == weight.n_cols
    tile = _tile(limits, n_experts, n_active, weight.format)
    results: dict[str, Any] = {"bias": bias, "out": out, "out_q8": out_q8, "d_ff": d_ff}
    results |= {"n_tokens": n_tokens, "order": order, "starts": starts}
    results |= {
        "stride": stacked_rows(d_ff),
        "n_active": n_active,
        "limit": limit,
        "up_offset": up_offset,
    }
    results |= {"gated": gated, "has_limit": limit > 0, "has_offset": up_offset != 0}
    results["activation"] = activation
    if tile.tokens == 1:  # a program takes the 32 rows of a block, and of up, in a few goes
        rows = 32 if triton_device.INTERPRETED else 2 * tile.rows
        tile = BlockTile(rows, 1, 2 * tile.n_warps, unroll=tile.unroll)
        results["sums"] = triton_device.scratch().view(torch.float32)
    rows_of_program = BLOCK if tile.tokens == 1 else tile.rows // (1 + gated)
    _launch(
        (_gate_up_of_one, _gate_up_of_many), limits, tile, triton.cdiv(d_ff, rows_of_program),
        (1 + gated) * d_ff, x, weight, n_experts, n_active, results,
    )  # fmt: skip


def launch_block_down(
    limits: Limits,
    *,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    weight: DeviceWeight,
    bias: torch.Tensor | None,
    order: torch.Tensor,
    starts: torch.Tensor,
    out: torch.Tensor,
    n_experts: int,
    n_active: int,
    n_rows: int,
    n_cols: int,
) -> None:
    """reference.expert_down of tensors; out float32 or bfloat16."""
    assert n_cols == weight.n_cols
    tile = _tile(limits, n_experts, n_active, weight.format)
    results: dict[str, Any] = {"n_tokens": n_tokens, "order": order, "starts": starts}
    results |= {"bias": bias, "out": out}
    results |= {"n_rows": n_rows, "stride": stacked_rows(n_rows)}
    _launch(
        (_down_of_one, _down_of_many), limits, tile, triton.cdiv(n_rows, tile.rows), n_rows, x,
        weight, n_experts, n_active, results,
    )  # fmt: skip
