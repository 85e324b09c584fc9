"""pack in Numba: rows as they lie in the file -> the packed layout of packed.h.

Each part fills its own groups of 16 rows; rows outside [row_offset, row_offset + n_rows) of the
packed matrix are left alone, so that several tensors can be laid side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.matmul.numba.packed import (
    Q4_0,
    Q4_1,
    Q4_K,
    Q8_0,
    SUPER_OF_8,
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
from pyroclast_kernels.weights.codebooks import grid

# Byte offsets of the argument struct.
_RAW, _WEIGHT, _N_ROWS, _N_COLS, _ROW_OFFSET = range(0, 40, 8)
# Bytes of 8 blocks of a row in the file; of one block.
_Q4_K_FILE, _IQ4_XS_FILE, _IQ3_S_FILE, _MXFP4_FILE = 144, 136, 110, 17
# Of each code of iq3_s the odd numbers 2 j + 1, a nibble j each, the first lowest.
_IQ3_S_GRID = (grid("iq3_s").astype(np.int64) // 2 << np.arange(0, 16, 4)).sum(axis=1)


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
def _pack_nibbles(block: Any, offset: int, quants: Any, lane: int) -> None:
    for k in range(4):
        store_i32(quants, 64 * k + 4 * lane, load_i32(block, offset + 4 * k))


@inline
def _pack_mxfp4_row(row: Any, group: Any, lane: int, n_cols: int, _format: Any) -> None:
    """2 ** (e - 128) as a bfloat16: half of what E8M0 says, since the codes are doubled."""
    for b in range(n_cols // 32):
        block = at(row, b * _MXFP4_FILE)
        (header, place), quants = find(group, b, Q4_0)
        e = load_u8(block, 0)
        store_u16(header, 32 * place + 2 * lane, 32 << e if e < 2 else (e - 1) << 7)
        _pack_nibbles(block, 1, quants, lane)


@inline
def _pack_iq4_xs_row(row: Any, group: Any, lane: int, n_cols: int, _format: Any) -> None:
    """Scales have 6 bits, less 32: nibbles from byte 4 on, and two bits each from byte 2 on."""
    for b in range(n_cols // 32):
        block, i = at(row, b // 8 * _IQ4_XS_FILE), b % 8
        (header, place), quants = find(group, b, SUPER_OF_8)
        header = at(header, 160 * (place // 8))
        store_u16(header, 2 * lane, load_u16(block, 0))
        low = load_u8(block, 4 + i // 2) >> 4 * (i % 2) & 15
        high = load_u8(block, 2 + i // 4) >> 2 * (i % 4) & 3
        store_u8(header, 32 + 16 * i + lane, (low | high << 4) - 32)
        _pack_nibbles(block, 8 + 16 * i, quants, lane)


@inline
def _iq3_s_code(block: Any, column: int) -> Any:
    """The odd number of a column, from -15 to 15, as 0 to 15: its grid is looked up here."""
    i = column // 4
    code = load_u8(block, 2 + i) | (load_u8(block, 66 + i // 8) >> i % 8 & 1) << 8
    number = _IQ3_S_GRID[code] >> 4 * (column % 4) & 15
    negative = load_u8(block, 74 + column // 8) >> column % 8 & 1
    return 7 - number if negative else 8 + number


@inline
def _pack_iq3_s_row(row: Any, group: Any, lane: int, n_cols: int, _format: Any) -> None:
    for b in range(n_cols // 32):
        block, i = at(row, b // 8 * _IQ3_S_FILE), b % 8
        (header, place), quants = find(group, b, SUPER_OF_8)
        header = at(header, 160 * (place // 8))
        store_u16(header, 2 * lane, load_u16(block, 0))
        scale = load_u8(block, 106 + i // 2) >> 4 * (i % 2) & 15
        store_u8(header, 32 + 16 * i + lane, 1 + 2 * scale)
        for k in range(16):
            both = _iq3_s_code(block, 32 * i + k) | _iq3_s_code(block, 32 * i + 16 + k) << 4
            store_u8(quants, 64 * (k // 4) + 4 * lane + k % 4, both)


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


def pack_iq4_nl(args: Any, part: int, n_parts: int) -> None:
    _pack_blocks(args, part, n_parts, (Q4_0, 2, 0))


def pack_mxfp4(args: Any, part: int, n_parts: int) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = block_group_bytes(n_cols, Q4_0)
    _pack(args, part, n_parts, n_cols // 32 * _MXFP4_FILE, size, (0, _pack_mxfp4_row))


def pack_iq4_xs(args: Any, part: int, n_parts: int) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = block_group_bytes(n_cols, SUPER_OF_8)
    _pack(args, part, n_parts, n_cols // 256 * _IQ4_XS_FILE, size, (0, _pack_iq4_xs_row))


def pack_iq3_s(args: Any, part: int, n_parts: int) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = block_group_bytes(n_cols, SUPER_OF_8)
    _pack(args, part, n_parts, n_cols // 256 * _IQ3_S_FILE, size, (0, _pack_iq3_s_row))


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
