"""One split of positions for a tile of query rows, in Numba: scores, softmax, weighted values.

No horizontal sums.  Scores: 16 positions in the lanes, one query value broadcast, summed over
head_dim.  Values: 16 dimensions in the lanes, one probability broadcast, summed over positions.
Accumulators are tuples of vectors, so each number of rows is compiled apart.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.attention import MAX_HEAD_DIM, SPLIT
from pyroclast_kernels.numba.math import exp, maximum, tanh
from pyroclast_kernels.numba.simd import (
    WIDE,
    at,
    each,
    fma,
    inline,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    paste,
    reduce_add,
    reduce_max,
    repeat,
    splat,
    store_f32,
    store_f32x16,
)

MAX_ROWS = 16  # of a tile: their scores of one split fill 32 KiB
# A tile's memory: scores (rows, SPLIT); queries, values of this split and values merged so far
# (rows, MAX_HEAD_DIM); then what is known of each row.
# Rows of values are padded, else they would share few sets of the L1 cache.
SCORE_BYTES, VALUE_BYTES = 4 * SPLIT, 4 * (MAX_HEAD_DIM + 16)
QUERIES = MAX_ROWS * SCORE_BYTES
VALUES = QUERIES + MAX_ROWS * VALUE_BYTES
MERGED = VALUES + MAX_ROWS * VALUE_BYTES
ROWS = MERGED + MAX_ROWS * VALUE_BYTES
# A row: it sees positions [FIRST, END); maximum and sum of exponentials so far, and of this split.
FIRST, END, MAXIMUM, SUM, SPLIT_MAXIMUM, SPLIT_SUM, ROW_BYTES = 0, 8, 16, 20, 24, 28, 32
TILE_BYTES = ROWS + MAX_ROWS * ROW_BYTES


@inline
def _score(i: int, acc: Any, q: Any, keys: Any, format: Any) -> Any:
    """Adds one dimension to the scores of row i // 2 at 16 positions from 16 * (i % 2) on."""
    cell_bytes, load_cells = format
    k = load_cells(keys, i % 2 * 16 * cell_bytes)
    return fma(k, splat(load_f32(q, i // 2 * VALUE_BYTES)), acc)


@inline
def _store_score(i: int, acc: Any, scores: Any, scale: Any) -> Any:
    store_f32x16(scores, i // 2 * SCORE_BYTES + i % 2 * 64, acc * scale)
    return acc


@inline
def _score_rows(
    acc: Any, q: Any, keys: Any, scores: Any, shape: Any, scale: Any, format: Any
) -> None:
    """q . k * scale of 32 positions, for half as many rows as acc has vectors."""
    head_dim, _, block_size, _ = shape
    for d in range(head_dim):
        column = at(keys, d * block_size * format[0])
        acc = each(_score, acc, (at(q, 4 * d), column, format))
    each(_store_score, acc, (scores, splat(scale)))


@paste
def _scores(
    tile: Any, n_rows: int, column: int, keys: Any, shape: Any, scale: Any, format: Any
) -> None:
    """_score_rows for all rows of the tile; column counts positions within the split."""
    zero = splat(0.0)
    r = 0
    while r < n_rows:
        q, scores = at(tile, QUERIES + r * VALUE_BYTES), at(tile, r * SCORE_BYTES + 4 * column)
        left = n_rows - r
        if WIDE and left >= 8:
            _score_rows(repeat(zero, 16), q, keys, scores, shape, scale, format)
            r += 8
        elif WIDE and left >= 4:
            _score_rows(repeat(zero, 8), q, keys, scores, shape, scale, format)
            r += 4
        elif left >= 2:
            _score_rows(repeat(zero, 4), q, keys, scores, shape, scale, format)
            r += 2
        else:
            _score_rows(repeat(zero, 2), q, keys, scores, shape, scale, format)
            r += 1


@inline
def _softmax_row(tile: Any, r: int, begin: int, end: int, cap: Any) -> None:
    """Exponentials of a row's scores in place, capped first if cap > 0, and 0 where it does not
    look; their maximum and sum."""
    row, scores = at(tile, ROWS + r * ROW_BYTES), at(tile, r * SCORE_BYTES)
    n = (end - begin + 31) // 32 * 32
    low, high = max(load_i64(row, FIRST) - begin, 0), min(load_i64(row, END), end) - begin
    if cap > 0:
        for i in range(0, n, 16):
            y = tanh(load_f32x16(scores, 4 * i) / splat(cap))
            store_f32x16(scores, 4 * i, y * splat(cap))
    for i in range(min(low, n)):
        store_f32(scores, 4 * i, -math.inf)
    for i in range(max(high, 0), n):
        store_f32(scores, 4 * i, -math.inf)
    top = splat(-math.inf)
    for i in range(0, n, 16):
        top = maximum(top, load_f32x16(scores, 4 * i))
    largest = reduce_max(top)
    total = splat(0.0)
    if high > low:
        for i in range(0, n, 16):
            e = exp(load_f32x16(scores, 4 * i) - splat(largest))
            total = total + e
            store_f32x16(scores, 4 * i, e)
    else:
        for i in range(0, n, 16):
            store_f32x16(scores, 4 * i, total)
    store_f32(row, SPLIT_MAXIMUM, largest)
    store_f32(row, SPLIT_SUM, reduce_add(total))


@inline
def _value(i: int, acc: Any, n: int, weights: Any, values: Any, format: Any) -> Any:
    """Adds one position to the values of row i // n, vector i % n of its dimensions."""
    cell_bytes, load_cells = format
    weight = load_f32(weights, i // n * SCORE_BYTES)
    return fma(splat(weight), load_cells(values, i % n * 16 * cell_bytes), acc)


@inline
def _store_value(i: int, acc: Any, n: int, out: Any) -> Any:
    store_f32x16(out, i // n * VALUE_BYTES + i % n * 64, acc)
    return acc


@inline
def _value_rows(
    acc: Any, n: int, tile: Any, r: int, d: int, begin: int, end: int, cache: Any, shape: Any,
    format: Any,
) -> None:  # fmt: skip
    """sum over the positions of probability * v: as many rows as acc has vectors, by n, from
    dimension d."""
    _, v_cache, table, kv_head = cache
    _, stride, block_size, n_kv_heads = shape
    weights = at(tile, r * SCORE_BYTES)
    p = begin
    while p < end:
        block = np.int64(load_i32(table, 4 * (p // block_size)))
        cell = (block * n_kv_heads + kv_head) * block_size + p % block_size
        values = at(v_cache, (cell * stride + d) * format[0])
        stop = min(end, (p // block_size + 1) * block_size)
        for j in range(stop - p):
            weight = at(weights, 4 * (p + j - begin))
            acc = each(_value, acc, (n, weight, at(values, j * stride * format[0]), format))
        p = stop
    each(_store_value, acc, (n, at(tile, VALUES + r * VALUE_BYTES + 4 * d)))


@paste
def _values(
    tile: Any, n_rows: int, begin: int, end: int, cache: Any, shape: Any, format: Any
) -> None:
    """_value_rows for all rows and dimensions: four rows by 64 dimensions at a time."""
    zero, stride = splat(0.0), shape[1]
    r = 0
    while r < n_rows:
        rows = 4 if WIDE and n_rows - r >= 4 else 1
        d = 0
        while d < stride:
            if rows == 4 and d + 64 <= stride:
                _value_rows(repeat(zero, 16), 4, tile, r, d, begin, end, cache, shape, format)
                d += 64
            elif rows == 4:
                _value_rows(repeat(zero, 4), 1, tile, r, d, begin, end, cache, shape, format)
                d += 16
            elif d + 64 <= stride:
                _value_rows(repeat(zero, 4), 4, tile, r, d, begin, end, cache, shape, format)
                d += 64
            else:
                _value_rows(repeat(zero, 1), 1, tile, r, d, begin, end, cache, shape, format)
                d += 16
        r += rows


@paste
def one_split(
    tile: Any, n_rows: int, begin: int, end: int, cache: Any, shape: Any, scoring: Any, format: Any
) -> None:
    """Scores, softmax and weighted values of all rows over positions [begin, end).  cache is
    (k_cache, v_cache, block table, kv head), shape (head_dim, value_stride, block_size,
    n_kv_heads), scoring (scale, cap), format (bytes of a cell, its loader)."""
    k_cache, _, table, kv_head = cache
    head_dim, _, block_size, n_kv_heads = shape
    scale, cap = scoring
    for p in range(begin, end, 32):
        block = np.int64(load_i32(table, 4 * (p // block_size)))
        cell = (block * n_kv_heads + kv_head) * head_dim * block_size + p % block_size
        _scores(tile, n_rows, p - begin, at(k_cache, cell * format[0]), shape, scale, format)
    for r in range(n_rows):
        _softmax_row(tile, r, begin, end, cap)
    _values(tile, n_rows, begin, end, cache, shape, format)
