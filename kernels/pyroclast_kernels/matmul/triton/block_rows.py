"""Rows of block-quantized weights times one token, in registers alone.

Decoding reads every weight once, so all that counts is how many bytes are under way and how little
is done to each.  A thread loads 16 bytes of a row, a warp 512 side by side; four columns at a time
are multiplied and added by one instruction (dp4a), and neither shared memory nor a barrier stands
between a load and its use.  An iteration of the loop takes several steps, all of whose loads go out
before the first is awaited.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.block_parts import numbers_of, plus_part
from pyroclast_kernels.triton import device as triton_device

_INTERPRETED = tl.constexpr(triton_device.INTERPRETED)
_VALUES = tl.constexpr(4)  # word of a Q8_BLOCK at which its values begin
_LOW = tl.constexpr(0x0F0F0F0F)
# Without a limit of its own the assembler saves registers, and puts each load next to its use: then
# one is under way at a time instead of a dozen.
MOST_REGISTERS = 128


@triton.jit
def _dot4(a, b):
    """The four signed bytes of each word multiplied and added up: int32."""
    if _INTERPRETED:  # which knows no instructions
        low = (a << 24 >> 24) * (b << 24 >> 24) + (a << 16 >> 24) * (b << 16 >> 24)
        return low + (a << 8 >> 24) * (b << 8 >> 24) + (a >> 24) * (b >> 24)
    return tl.inline_asm_elementwise(
        "dp4a.s32.s32 $0, $1, $2, 0;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def _plane(
    plane: tl.constexpr, row, has_row, step, end, x_words, x_floats, x_row, n_blocks, halves, small,
    part_columns: tl.constexpr, n_halves: tl.constexpr, n_small: tl.constexpr,
    n_offsets: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    """What a step's products of one plane are multiplied with: (words of x, numbers_of).  Planes:
    even and odd blocks where they share bytes; first and second halves of blocks where these have
    scales of their own; else there is but one."""
    every: tl.constexpr = 2 if nibbles else 1
    n_lanes: tl.constexpr = 8 // every
    word = tl.arange(0, n_lanes * 8)
    block = step * 8 + word // 8 * every + (plane if nibbles else 0)
    x = tl.load(x_words + (x_row + block) * 16 + _VALUES + word % 8, block < end, 0)
    if part_columns == 16:
        x = tl.where(word % 8 // 4 == plane, x, 0)
    block = step * 8 + tl.arange(0, n_lanes) * every + (plane if nibbles else 0)
    exists = (block < end)[None, :]
    part = block * (32 // part_columns) + (plane if part_columns == 16 else 0)
    n_parts = n_blocks * (32 // part_columns)
    numbers = numbers_of(
        row[:, None], part[None, :], n_parts, has_row[:, None] & exists, x_words, x_floats, x_row,
        exists, halves, small, part_columns, n_halves, n_small, n_offsets,
    )  # fmt: skip
    return x, numbers


@triton.jit
def _plus_plane(acc, words, plane, n_halves: tl.constexpr):
    """acc (rows, lanes) + the products of words (rows, 8 to a block) with a plane."""
    x, numbers = plane
    products = tl.reshape(_dot4(words, x[None, :]), (acc.shape[0], acc.shape[1], 8))
    return plus_part(acc, tl.sum(products, axis=2), numbers, n_halves)


@triton.jit
def _lane(acc, i: tl.constexpr):
    """(rows,): lane i of acc (rows, lanes)."""
    return tl.sum(tl.where(tl.arange(0, acc.shape[1])[None, :] == i, acc, 0.0), axis=1)


@triton.jit
def _run_of_rows(
    codes, halves, small, row, has_row, x_words, x_floats, x_row, run, n_blocks,
    run_steps: tl.constexpr, rows: tl.constexpr, unroll: tl.constexpr, part_columns: tl.constexpr,
    n_halves: tl.constexpr, n_small: tl.constexpr, n_offsets: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    """float32 (rows,): the sum over one run of columns; codes as words of 4 bytes."""
    every: tl.constexpr = 2 if nibbles else 1
    n_planes: tl.constexpr = 2 if nibbles or part_columns == 16 else 1
    n_words: tl.constexpr = 64 // every
    row_words = (n_blocks + every - 1) // every * 8
    word = tl.arange(0, n_words)
    at = codes + row[:, None].to(tl.int64) * row_words + word[None, :]
    first = tl.zeros((rows, n_words // 8), tl.float32)
    second = tl.zeros((rows, n_words // 8), tl.float32)
    end = tl.minimum(n_blocks, (run + 1) * run_steps * 8)
    for i in tl.range(0, run_steps, unroll):
        step = run * run_steps + i
        loaded, planes = (), ()
        for u in tl.static_range(unroll):
            column = (step + u) * n_words + word
            mask = has_row[:, None] & (column < row_words)[None, :]
            words = tl.load(at + (step + u) * n_words, mask, 0, eviction_policy="evict_first")
            loaded = loaded + (words,)  # noqa: RUF005 -- Triton has no (*loaded, words)
        for u in tl.static_range(unroll):
            for plane in tl.static_range(n_planes):
                numbers = _plane(
                    plane, row, has_row, step + u, end, x_words, x_floats, x_row, n_blocks, halves,
                    small, part_columns, n_halves, n_small, n_offsets, nibbles,
                )  # fmt: skip
                planes = planes + (numbers,)  # noqa: RUF005
        for u in tl.static_range(unroll):
            words = loaded[u]
            if nibbles:
                first = _plus_plane(first, words & _LOW, planes[2 * u], n_halves)
                second = _plus_plane(second, (words >> 4) & _LOW, planes[2 * u + 1], n_halves)
            elif part_columns == 16:
                first = _plus_plane(first, words, planes[2 * u], n_halves)
                second = _plus_plane(second, words, planes[2 * u + 1], n_halves)
            else:
                first = _plus_plane(first, words, planes[u], n_halves)
    total = tl.zeros((rows,), tl.float32)
    for i in tl.static_range(n_words // 8):
        total += _lane(first, i)
        if n_planes == 2:
            total += _lane(second, i)
    return total


@triton.jit
def rows_of(
    codes, halves, small, row, has_row, x_words, x_floats, x_row, first_run, n_blocks,
    n_runs: tl.constexpr, run_steps: tl.constexpr, rows: tl.constexpr, unroll: tl.constexpr,
    part_columns: tl.constexpr, n_halves: tl.constexpr, n_small: tl.constexpr,
    n_offsets: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    """float32 (rows,): n_runs runs from first_run on, added up in that order."""
    total = tl.zeros((rows,), tl.float32)
    for i in range(n_runs):
        total += _run_of_rows(
            codes, halves, small, row, has_row, x_words, x_floats, x_row, first_run + i, n_blocks,
            run_steps, rows, unroll, part_columns, n_halves, n_small, n_offsets, nibbles,
        )  # fmt: skip
    return total
