"""pack in Numba: rows as they lie in the file -> the packed layout of packed.h.

Each part fills its own groups of 16 rows; rows outside [row_offset, row_offset + n_rows) of the
packed matrix are left alone, so that several tensors can be laid side by side.
"""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.matmul.numba.packed import (
    Q4_0,
    Q4_1,
    Q4_K,
    Q8_0,
    block_group_bytes,
    find,
    value_group_bytes,
)
from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import (
    at,
    inline,
    load_i32,
    load_i64,
    load_pointer,
    load_u8,
    load_u16,
    store_i32,
    store_u8,
    store_u16,
)

# Byte offsets of the argument struct.
_RAW, _WEIGHT, _N_ROWS, _N_COLS, _ROW_OFFSET = range(0, 40, 8)
_Q4_K_FILE = 144  # bytes of 8 blocks of a row in the file


@inline
def _pack_block_row(row: Any, group: Any, lane: int, n_cols: int, format: Any) -> None:
    layout, n_bytes, flip = format  # of the scale; q4_1: and the minimum
    n_quads = layout[2] // 64
    for b in range(n_cols // 32):
        block = at(row, b * (n_bytes + 4 * n_quads))
        (header, place), quants = find(group, b, layout)
        for i in range(0, n_bytes, 2):
            store_u16(header, 32 * place + 16 * i + 2 * lane, load_u16(block, i))
        for k in range(n_quads):
            store_i32(quants, 64 * k + 4 * lane, load_i32(block, n_bytes + 4 * k) ^ flip)


@inline
def _pack_q4_k_row(row: Any, group: Any, lane: int, n_cols: int, _format: Any) -> None:
    """Scales and minimums have 6 bits: those of blocks 0..3 whole in bytes 0..7, whose highest two
    complete those of blocks 4..7, the rest of which is in bytes 8..11."""
    for b in range(n_cols // 32):
        block = at(row, b // 8 * _Q4_K_FILE)
        (header, i), quants = find(group, b, Q4_K)
        for half in range(0, 4, 2):
            store_u16(header, 16 * half + 2 * lane, load_u16(block, half))
        if i < 4:
            scale, minimum = load_u8(block, 4 + i) & 63, load_u8(block, 8 + i) & 63
        else:
            rest = load_u8(block, 8 + i)
            scale = rest & 15 | load_u8(block, i) >> 6 << 4
            minimum = rest >> 4 | load_u8(block, 4 + i) >> 6 << 4
        store_u8(header, 64 + 16 * i + lane, scale)
        store_u8(header, 192 + 16 * i + lane, minimum)
        codes, shift = at(block, 16 + 32 * (i >> 1)), 4 * (i & 1)
        for k in range(4):
            low = load_i32(codes, 4 * k) >> shift & 0x0F0F0F0F
            high = load_i32(codes, 16 + 4 * k) >> shift & 0x0F0F0F0F
            store_i32(quants, 64 * k + 4 * lane, low | high << 4)


@inline
def _pack_f32_row(row: Any, group: Any, lane: int, n_cols: int, _format: Any) -> None:
    for k in range(n_cols):
        store_i32(group, 4 * (16 * k + lane), load_i32(row, 4 * k))


@inline
def _pack_16_bit_row(row: Any, group: Any, lane: int, n_cols: int, _format: Any) -> None:
    for k in range(n_cols):
        store_u16(group, 2 * (16 * k + lane), load_u16(row, 2 * k))


@inline
def _pack(args: Any, part: int, n_parts: int, row_bytes: int, size: int, kind: Any) -> None:
    format, pack_row = kind
    raw, weight = load_pointer(args, _RAW), load_pointer(args, _WEIGHT)
    first_row, n_cols = load_i64(args, _ROW_OFFSET), load_i64(args, _N_COLS)
    end_row = first_row + load_i64(args, _N_ROWS)
    first_group = first_row // 16
    n_groups = (end_row + 15) // 16 - first_group
    begin = max(first_row, 16 * (first_group + split_begin(n_groups, part, n_parts)))
    end = min(end_row, 16 * (first_group + split_begin(n_groups, part + 1, n_parts)))
    for row in range(begin, end):
        source = at(raw, (row - first_row) * row_bytes)
        pack_row(source, at(weight, row // 16 * size), row % 16, n_cols, format)


@inline
def _pack_blocks(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    layout, n_bytes, _ = format
    row_bytes = n_cols // 32 * (n_bytes + layout[2] // 16)
    size = block_group_bytes(n_cols, layout)
    _pack(args, part, n_parts, row_bytes, size, (format, _pack_block_row))


@inline
def _pack_values(args: Any, part: int, n_parts: int, value_bytes: int, pack_row: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = value_group_bytes(n_cols, value_bytes)
    _pack(args, part, n_parts, n_cols * value_bytes, size, (0, pack_row))


def pack_q8_0(args: Any, part: int, n_parts: int) -> None:
    # The signs flip: q8_0 is kept with +128, since the products want an unsigned side.
    _pack_blocks(args, part, n_parts, (Q8_0, 2, 0x80808080))


def pack_q4_0(args: Any, part: int, n_parts: int) -> None:
    _pack_blocks(args, part, n_parts, (Q4_0, 2, 0))


def pack_q4_1(args: Any, part: int, n_parts: int) -> None:
    _pack_blocks(args, part, n_parts, (Q4_1, 4, 0))


def pack_q4_k(args: Any, part: int, n_parts: int) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = block_group_bytes(n_cols, Q4_K)
    _pack(args, part, n_parts, n_cols // 256 * _Q4_K_FILE, size, (0, _pack_q4_k_row))


def pack_f32(args: Any, part: int, n_parts: int) -> None:
    _pack_values(args, part, n_parts, 4, _pack_f32_row)


def pack_f16(args: Any, part: int, n_parts: int) -> None:
    _pack_values(args, part, n_parts, 2, _pack_16_bit_row)


def pack_bf16(args: Any, part: int, n_parts: int) -> None:
    _pack_values(args, part, n_parts, 2, _pack_16_bit_row)
