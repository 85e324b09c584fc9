"""embed in Numba: out[t] = scale * row token_ids[t] of a packed weight, dequantized, or added to
out[t]; one token per item.

A row is one lane of its group, so its values are read one by one.
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
    load_bfloat,
    load_f32,
    load_f64,
    load_half,
    load_i32,
    load_i64,
    load_pointer,
    load_u8,
    paste,
    store_f32,
)
from pyroclast_kernels.weights.table_blocks import TABLES

# The values that nibbles name.
_NON_LINEAR = np.array(TABLES["iq4_nl"], np.float32)
_E2M1 = np.array(TABLES["mxfp4"], np.float32)
# Byte offsets of the argument struct.
_N_TOKENS, _TOKEN_IDS, _WEIGHT, _OUT, _N_COLS, _SCALE, _ACCUMULATE = range(0, 56, 8)


@inline
def _change(args: Any) -> Any:
    """(the factor of a row, whether it is added to what is there)."""
    return np.float32(load_f64(args, _SCALE)), load_i64(args, _ACCUMULATE) != 0


@inline
def _put(out: Any, offset: int, value: Any, change: Any) -> None:
    factor, accumulates = change
    value = factor * value
    if accumulates:
        value = load_f32(out, offset) + value
    store_f32(out, offset, value)


@inline
def _q8_0_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    """One row's 32 values of a block; q8_0 is kept with +128."""
    header, block = scales
    scale = load_half(header, 32 * block + 2 * lane)
    for k in range(32):
        q = np.int32(load_u8(quants, k // 4 * 64 + 4 * lane + k % 4)) - np.int32(128)
        _put(out, 4 * k, scale * np.float32(q), change)


@inline
def _nibble(quants: Any, lane: int, k: int) -> Any:
    """The low halves are columns 0..15 of a block, the high ones 16..31."""
    both = np.int32(load_u8(quants, k % 16 // 4 * 64 + 4 * lane + k % 4))
    return both & np.int32(15) if k < 16 else both >> np.int32(4)


@inline
def _q4_0_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    header, block = scales
    scale = load_half(header, 32 * block + 2 * lane)
    for k in range(32):
        q = _nibble(quants, lane, k) - np.int32(8)
        _put(out, 4 * k, scale * np.float32(q), change)


@inline
def _q4_1_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    header, _ = scales
    scale, minimum = load_half(header, 2 * lane), load_half(header, 32 + 2 * lane)
    for k in range(32):
        _put(out, 4 * k, scale * np.float32(_nibble(quants, lane, k)) + minimum, change)


@inline
def _q4_k_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    header, block = scales
    small = at(header, 64 + 16 * block + lane)
    scale = load_half(header, 2 * lane) * np.float32(load_u8(small, 0))
    minimum = load_half(header, 32 + 2 * lane) * np.float32(load_u8(small, 128))
    for k in range(32):
        _put(out, 4 * k, scale * np.float32(_nibble(quants, lane, k)) - minimum, change)


@inline
def _iq4_nl_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    header, block = scales
    scale = load_half(header, 32 * block + 2 * lane)
    for k in range(32):
        _put(out, 4 * k, scale * _NON_LINEAR[_nibble(quants, lane, k)], change)


@inline
def _mxfp4_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    header, block = scales
    scale = load_bfloat(header, 32 * block + 2 * lane)
    for k in range(32):
        _put(out, 4 * k, scale * _E2M1[_nibble(quants, lane, k)], change)


@inline
def _super_scale(scales: Any, lane: int) -> Any:
    """d times the signed scale of a block: two headers of 160 bytes."""
    header, block = scales
    header = at(header, 160 * (block // 8))
    small = np.int8(load_u8(header, 32 + 16 * (block % 8) + lane))
    return load_half(header, 2 * lane) * np.float32(small)


@inline
def _iq4_xs_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    scale = _super_scale(scales, lane)
    for k in range(32):
        _put(out, 4 * k, scale * _NON_LINEAR[_nibble(quants, lane, k)], change)


@inline
def _iq3_s_block(scales: Any, quants: Any, lane: int, out: Any, change: Any) -> None:
    scale = _super_scale(scales, lane)
    for k in range(32):
        number = np.int32(2) * _nibble(quants, lane, k) - np.int32(15)
        _put(out, 4 * k, scale * np.float32(number), change)


@paste
def _embed_blocks(args: Any, part: int, n_parts: int, format: Any) -> None:
    layout, read_block = format
    n_cols, n_tokens = load_i64(args, _N_COLS), load_i64(load_pointer(args, _N_TOKENS), 0)
    size, change = block_group_bytes(n_cols, layout), _change(args)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        row = load_i32(load_pointer(args, _TOKEN_IDS), 4 * t)
        group = at(load_pointer(args, _WEIGHT), row // 16 * size)
        out = at(load_pointer(args, _OUT), 4 * t * n_cols)
        for b in range(n_cols // 32):
            scales, quants = find(group, b, layout)
            read_block(scales, quants, row % 16, at(out, 128 * b), change)


@paste
def _embed_values(args: Any, part: int, n_parts: int, value_bytes: int, read: Any) -> None:
    n_cols, n_tokens = load_i64(args, _N_COLS), load_i64(load_pointer(args, _N_TOKENS), 0)
    size, change = value_group_bytes(n_cols, value_bytes), _change(args)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        row = load_i32(load_pointer(args, _TOKEN_IDS), 4 * t)
        group = at(load_pointer(args, _WEIGHT), row // 16 * size + row % 16 * value_bytes)
        out = at(load_pointer(args, _OUT), 4 * t * n_cols)
        for k in range(n_cols):
            _put(out, 4 * k, read(group, 16 * value_bytes * k), change)


def embed_q8_0(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (Q8_0, _q8_0_block))


def embed_q4_0(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (Q4_0, _q4_0_block))


def embed_q4_1(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (Q4_1, _q4_1_block))


def embed_q4_k(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (Q4_K, _q4_k_block))


def embed_iq4_nl(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (Q4_0, _iq4_nl_block))


def embed_iq4_xs(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (SUPER_OF_8, _iq4_xs_block))


def embed_iq3_s(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (SUPER_OF_8, _iq3_s_block))


def embed_mxfp4(args: Any, part: int, n_parts: int) -> None:
    _embed_blocks(args, part, n_parts, (Q4_0, _mxfp4_block))


def embed_f32(args: Any, part: int, n_parts: int) -> None:
    _embed_values(args, part, n_parts, 4, load_f32)


def embed_f16(args: Any, part: int, n_parts: int) -> None:
    _embed_values(args, part, n_parts, 2, load_half)


def embed_bf16(args: Any, part: int, n_parts: int) -> None:
    _embed_values(args, part, n_parts, 2, load_bfloat)
