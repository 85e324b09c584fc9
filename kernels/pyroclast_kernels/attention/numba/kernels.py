"""Causal attention in Numba: the C++ kernel, but one token's context stays on one thread.

An item is (tile of a sequence's queries, kv head).  Its rows, every query of the tile with every
query head of the group, share each load of K and V: tile.py processes one split.
A row's context is processed in splits of SPLIT positions, cut at its multiples whatever the batch,
and merged from left to right: the bits depend on the sequence alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.activation.numba.quantize import Q8_BYTES, quantize_row
from pyroclast_kernels.attention import SPLIT
from pyroclast_kernels.attention.numba.tile import (
    END,
    FIRST,
    MAX_ROWS,
    MAXIMUM,
    MERGED,
    QUERIES,
    ROW_BYTES,
    ROWS,
    SPLIT_MAXIMUM,
    SPLIT_SUM,
    SUM,
    TILE_BYTES,
    VALUE_BYTES,
    VALUES,
    one_split,
)
from pyroclast_kernels.numba.math import load_n, store_n
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f32,
    load_f32x16,
    load_f64,
    load_halfx16,
    load_i32,
    load_i64,
    load_pointer,
    paste,
    splat,
    stack,
    store_f32,
    store_f32x16,
    store_i64,
)

# Byte offsets of the argument struct.
_N_TOKENS, _N_SEQS, _SEQ_STARTS, _POSITIONS, _BLOCK_TABLES, _QKV = range(0, 48, 8)
_K_CACHE, _V_CACHE, _OUT, _OUT_Q8 = range(48, 80, 8)  # scratch and counters are not needed
_N_HEADS, _N_KV_HEADS, _HEAD_DIM, _BLOCK_SIZE, _MAX_BLOCKS = range(96, 136, 8)
_VALUE_STRIDE, _WINDOW, _SCALE, _SOFTCAP, _SINKS = range(136, 176, 8)


@inline
def _start_row(args: Any, tile: Any, r: int, token: int, head: int) -> None:
    """Row r of the tile: a copy of its query, the positions that it sees, nothing summed yet."""
    head_dim, width = load_i64(args, _HEAD_DIM), load_i64(args, _N_HEADS)
    width = (width + 2 * load_i64(args, _N_KV_HEADS)) * head_dim
    q = at(load_pointer(args, _QKV), 4 * (token * width + head * head_dim))
    for i in range(0, load_i64(args, _VALUE_STRIDE), 16):
        store_f32x16(tile, QUERIES + r * VALUE_BYTES + 4 * i, load_n(q, 4 * i, head_dim - i))
        store_f32x16(tile, MERGED + r * VALUE_BYTES + 4 * i, splat(0.0))
    end = np.int64(load_i32(load_pointer(args, _POSITIONS), 4 * token)) + 1
    window = load_i64(args, _WINDOW)
    row = at(tile, ROWS + r * ROW_BYTES)
    store_i64(row, FIRST, max(0, end - window) if window > 0 else 0)
    store_i64(row, END, end)
    store_f32(row, MAXIMUM, -math.inf)
    store_f32(row, SUM, 0.0)


@inline
def _merge(tile: Any, r: int, stride: int) -> None:
    """Folds the split of row r into its running softmax."""
    row = at(tile, ROWS + r * ROW_BYTES)
    split_maximum, split_sum = load_f32(row, SPLIT_MAXIMUM), load_f32(row, SPLIT_SUM)
    if split_sum == np.float32(0):
        return  # the row sees nothing in this split
    before = load_f32(row, MAXIMUM)
    top = before if before > split_maximum else split_maximum
    keep, add = np.float32(math.exp(before - top)), np.float32(math.exp(split_maximum - top))
    store_f32(row, MAXIMUM, top)
    store_f32(row, SUM, load_f32(row, SUM) * keep + split_sum * add)
    values, merged = at(tile, VALUES + r * VALUE_BYTES), at(tile, MERGED + r * VALUE_BYTES)
    for i in range(0, 4 * stride, 64):
        new = load_f32x16(values, i) * splat(add)
        store_f32x16(merged, i, fma(load_f32x16(merged, i), splat(keep), new))


@inline
def _merge_sink(tile: Any, r: int, sink: Any, stride: int) -> None:
    """Folds a head's sink into the running softmax of row r."""
    row, merged = at(tile, ROWS + r * ROW_BYTES), at(tile, MERGED + r * VALUE_BYTES)
    top, total = load_f32(row, MAXIMUM), load_f32(row, SUM)
    if sink > top:
        less = np.float32(math.exp(top - sink))
        store_f32(row, SUM, total * less + np.float32(1))
        for i in range(0, 4 * stride, 64):
            store_f32x16(merged, i, load_f32x16(merged, i) * splat(less))
    else:
        store_f32(row, SUM, total + np.float32(math.exp(sink - top)))


@inline
def _finish_row(args: Any, tile: Any, r: int, token: int, head: int) -> None:
    """Divides by the sum and writes the result, as float32, in 8 bits, or both."""
    head_dim = load_i64(args, _HEAD_DIM)
    merged = at(tile, MERGED + r * VALUE_BYTES)
    if load_i64(args, _SINKS) != 0:
        sink = load_f32(load_pointer(args, _SINKS), 4 * head)
        _merge_sink(tile, r, sink, load_i64(args, _VALUE_STRIDE))
    total = splat(load_f32(tile, ROWS + r * ROW_BYTES + SUM))
    first = (token * load_i64(args, _N_HEADS) + head) * head_dim
    for i in range(0, head_dim, 16):
        y = load_f32x16(merged, 4 * i) / total
        store_f32x16(merged, 4 * i, y)
        if load_i64(args, _OUT) != 0:
            store_n(load_pointer(args, _OUT), 4 * (first + i), y, head_dim - i)
    if load_i64(args, _OUT_Q8) != 0:
        quantize_row(merged, head_dim, at(load_pointer(args, _OUT_Q8), first // 32 * Q8_BYTES))


@paste
def _one_tile(
    args: Any, seq: int, token: int, n: int, kv_head: int, head: int, n_heads: int, format: Any
) -> None:
    """Tokens [token, token + n) of a sequence with query heads [head, head + n_heads)."""
    tile = stack(TILE_BYTES)
    n_rows, stride = n * n_heads, load_i64(args, _VALUE_STRIDE)
    for r in range(n_rows):
        _start_row(args, tile, r, token + r // n_heads, head + r % n_heads)
    table = at(load_pointer(args, _BLOCK_TABLES), 4 * seq * load_i64(args, _MAX_BLOCKS))
    shape = (
        load_i64(args, _HEAD_DIM), stride, load_i64(args, _BLOCK_SIZE), load_i64(args, _N_KV_HEADS),
    )  # fmt: skip
    scale = np.float32(1) / np.float32(1 / load_f64(args, _SCALE))
    scoring = (scale, np.float32(load_f64(args, _SOFTCAP)))
    cache = (load_pointer(args, _K_CACHE), load_pointer(args, _V_CACHE), table, kv_head)
    end = load_i64(tile, ROWS + (n_rows - 1) * ROW_BYTES + END)
    begin = load_i64(tile, ROWS + FIRST) // SPLIT * SPLIT
    while begin < end:
        one_split(tile, n_rows, begin, min(begin + SPLIT, end), cache, shape, scoring, format)
        for r in range(n_rows):
            _merge(tile, r, stride)
        begin += SPLIT
    for r in range(n_rows):
        _finish_row(args, tile, r, token + r // n_heads, head + r % n_heads)


@paste
def _attention(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_heads, n_kv_heads = load_i64(args, _N_HEADS), load_i64(args, _N_KV_HEADS)
    group = n_heads // n_kv_heads
    heads_per_item = min(group, MAX_ROWS)
    n_chunks = (group + heads_per_item - 1) // heads_per_item
    tile_tokens = max(1, MAX_ROWS // group)
    starts = load_pointer(args, _SEQ_STARTS)
    item = 0
    for seq in range(load_i64(load_pointer(args, _N_SEQS), 0)):
        first, end = np.int64(load_i32(starts, 4 * seq)), np.int64(load_i32(starts, 4 * seq + 4))
        while end > first:  # the last tiles look furthest back: the longest items go first
            token = max(first, end - tile_tokens)
            for column in range(n_kv_heads * n_chunks):
                if item % n_parts == part:
                    kv_head, chunk = column // n_chunks, column % n_chunks
                    n = min(heads_per_item, group - chunk * heads_per_item)
                    head = kv_head * group + chunk * heads_per_item
                    _one_tile(args, seq, token, end - token, kv_head, head, n, format)
                item += 1
            end = token


def attention_f32(args: Any, part: int, n_parts: int) -> None:
    _attention(args, part, n_parts, (4, load_f32x16))


def attention_f16(args: Any, part: int, n_parts: int) -> None:
    _attention(args, part, n_parts, (2, load_halfx16))
