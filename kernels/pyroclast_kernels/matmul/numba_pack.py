"""pack in Numba: rows as they lie in the file -> the packed layout of packed.h.

Each part fills its own groups of 16 rows; rows outside [row_offset, row_offset + n_rows) of the
packed matrix are left alone, so that several tensors can be laid side by side.
"""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.matmul.numba_packed import (
    Q4_0_FILE,
    Q4_0_QUANTS,
    Q4_0_SCALES,
    Q4_1_FILE,
    Q4_1_QUANTS,
    Q4_1_SCALES,
    Q8_0_FILE,
    Q8_0_QUANTS,
    Q8_0_SCALES,
    block_group_bytes,
    quants_offset,
    scales_offset,
    value_group_bytes,
)
from pyroclast_kernels.numba_math import split_begin
from pyroclast_kernels.numba_simd import (
    at,
    inline,
    load_i32,
    load_i64,
    load_pointer,
    load_u16,
    store_i32,
    store_u16,
)

# Byte offsets of the argument struct.
_RAW, _WEIGHT, _N_ROWS, _N_COLS, _ROW_OFFSET = range(0, 40, 8)


@inline
def _pack_block_row(row: Any, group: Any, lane: int, n_cols: int, format: Any) -> None:
    scale_bytes, quant_bytes, file_bytes, flip = format
    header = scale_bytes // 16
    for b in range(n_cols // 32):
        block = at(row, b * file_bytes)
        scales = at(group, scales_offset(b, scale_bytes, quant_bytes))
        quants = at(group, quants_offset(b, scale_bytes, quant_bytes))
        for i in range(0, header, 2):  # the scale; q4_1: and the minimum
            store_u16(scales, 16 * i + 2 * lane, load_u16(block, i))
        for k in range(quant_bytes // 64):
            quad = load_i32(block, header + 4 * k) ^ flip
            store_i32(quants, 64 * k + 4 * lane, quad)


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
    scale_bytes, quant_bytes, file_bytes, _ = format
    n_cols = load_i64(args, _N_COLS)
    size = block_group_bytes(n_cols, scale_bytes, quant_bytes)
    _pack(args, part, n_parts, n_cols // 32 * file_bytes, size, (format, _pack_block_row))


@inline
def _pack_values(args: Any, part: int, n_parts: int, value_bytes: int, pack_row: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = value_group_bytes(n_cols, value_bytes)
    _pack(args, part, n_parts, n_cols * value_bytes, size, (0, pack_row))


def pack_q8_0(args: Any, part: int, n_parts: int) -> None:
    # The signs flip: q8_0 is kept with +128, since the products want an unsigned side.
    _pack_blocks(args, part, n_parts, (Q8_0_SCALES, Q8_0_QUANTS, Q8_0_FILE, 0x80808080))


def pack_q4_0(args: Any, part: int, n_parts: int) -> None:
    _pack_blocks(args, part, n_parts, (Q4_0_SCALES, Q4_0_QUANTS, Q4_0_FILE, 0))


def pack_q4_1(args: Any, part: int, n_parts: int) -> None:
    _pack_blocks(args, part, n_parts, (Q4_1_SCALES, Q4_1_QUANTS, Q4_1_FILE, 0))


def pack_f32(args: Any, part: int, n_parts: int) -> None:
    _pack_values(args, part, n_parts, 4, _pack_f32_row)


def pack_f16(args: Any, part: int, n_parts: int) -> None:
    _pack_values(args, part, n_parts, 2, _pack_16_bit_row)


def pack_bf16(args: Any, part: int, n_parts: int) -> None:
    _pack_values(args, part, n_parts, 2, _pack_16_bit_row)
