"""Tiles of block-quantized weights times several tokens, on tensor cores.

One int8 product of a block of 32 columns, then its scales: on Hopper wgmma m64nNk32, the weights
first, so that 8 bits of a weight go from memory to the tensor core untouched.  The lanes of
block_parts.py follow one another: a sum at a time, all blocks of a run that belong to it.
One loop runs over runs, lanes and steps, so that loads are under way across their ends.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.block_parts import numbers_of, plus_part

_VALUES = tl.constexpr(16)  # byte of a Q8_BLOCK at which its values begin


@triton.jit
def tiles_of(
    codes, halves, small, row, has_row, x, x_words, x_floats, x_row, has_token, first_run, n_blocks,
    n_runs: tl.constexpr, run_steps: tl.constexpr, rows: tl.constexpr, tokens: tl.constexpr,
    part_columns: tl.constexpr, n_halves: tl.constexpr, n_small: tl.constexpr,
    n_offsets: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    """float32 (rows, tokens): n_runs runs from first_run on, added up in that order.

    row (rows,), x_row (tokens,): index of each token's first Q8_BLOCK.
    """
    planes: tl.constexpr = 2 if nibbles else 1
    column = tl.arange(0, 32)
    row_bytes = (n_blocks + planes - 1) // planes * 32
    codes_at = codes + row[:, None].to(tl.int64) * row_bytes + column[None, :]
    x_at = x + x_row[None, :].to(tl.int64) * 64 + _VALUES + column[:, None]
    total = tl.zeros((rows, tokens), tl.float32)
    of_run = tl.zeros((rows, tokens), tl.float32)
    lane_a = tl.zeros((rows, tokens), tl.float32)
    lane_b = tl.zeros((rows, tokens), tl.float32)
    run_blocks: tl.constexpr = run_steps * 8
    for i in range(n_runs * run_blocks):
        step, lane = i % run_steps, i // run_steps % 8
        block = ((first_run + i // run_blocks) * run_steps + step) * 8 + lane
        exists = block < n_blocks
        row_mask, token_mask = has_row[:, None] & exists, has_token[None, :] & exists
        weights = tl.load(codes_at + block // planes * 32, row_mask, 0)
        if nibbles:
            weights = ((weights >> (block % 2 * 4).to(tl.uint8)) & 15).to(tl.int8)
        values = tl.load(x_at + block * 64, token_mask, 0)
        if part_columns == 32:
            numbers = numbers_of(
                row[:, None], block, n_blocks, row_mask, x_words, x_floats, x_row[None, :],
                token_mask, halves, small, part_columns, n_halves, n_small, n_offsets,
            )  # fmt: skip
            product = tl.dot(weights, values, out_dtype=tl.int32)
            lane_a = plus_part(lane_a, product, numbers, n_halves)
        else:
            is_first = (column < 16)[:, None]
            numbers = numbers_of(
                row[:, None], 2 * block, 2 * n_blocks, row_mask, x_words, x_floats, x_row[None, :],
                token_mask, halves, small, part_columns, n_halves, n_small, n_offsets,
            )  # fmt: skip
            product = tl.dot(weights, tl.where(is_first, values, 0), out_dtype=tl.int32)
            lane_a = plus_part(lane_a, product, numbers, n_halves)
            numbers = numbers_of(
                row[:, None], 2 * block + 1, 2 * n_blocks, row_mask, x_words, x_floats,
                x_row[None, :], token_mask, halves, small, part_columns, n_halves, n_small,
                n_offsets,
            )  # fmt: skip
            product = tl.dot(weights, tl.where(is_first, 0, values), out_dtype=tl.int32)
            lane_b = plus_part(lane_b, product, numbers, n_halves)
        if step == run_steps - 1:
            of_run += lane_a
            lane_a = tl.zeros((rows, tokens), tl.float32)
            if part_columns == 16:
                of_run += lane_b
                lane_b = tl.zeros((rows, tokens), tl.float32)
            if n_runs > 1 and lane == 7:
                total += of_run
                of_run = tl.zeros((rows, tokens), tl.float32)
    return total if n_runs > 1 else of_run
