"""Tiles of pairs by a group of 16 rows, in Numba: the steps of matmul/numba with a pointer to each
pair's activations, since the tokens of an expert do not lie side by side.
"""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.matmul.numba.blocks import Q8_BYTES
from pyroclast_kernels.matmul.numba.packed import find
from pyroclast_kernels.numba.simd import (
    MAX_TILE,
    at,
    each,
    fma,
    inline,
    load_f32,
    load_pointer,
    repeat,
    splat,
    store_f32x16,
)

# Pairs of the largest tile.
TILE = 8 if MAX_TILE >= 8 else 4


@inline
def _block_pair(m: int, acc: Any, pointers: Any, offset: int, scaled: Any, q: Any) -> Any:
    scales, token_step = scaled
    return token_step(0, acc, at(load_pointer(pointers, 8 * m), offset), 0, scales, q)


@inline
def block_pairs(acc: Any, group: Any, n_cols: int, pointers: Any, format: Any) -> Any:
    """As block_tokens of matmul/numba/blocks.py."""
    layout, load_quants, token_step = format
    for b in range(n_cols // 32):
        scales, quants = find(group, b, layout)
        shared = (pointers, b * Q8_BYTES, (scales, token_step), load_quants(quants))
        acc = each(_block_pair, acc, shared)
    return acc


@inline
def _value_pair(m: int, acc: Any, pointers: Any, offset: int, w: Any) -> Any:
    return fma(w, splat(load_f32(load_pointer(pointers, 8 * m), offset)), acc)


@inline
def value_pairs(acc: Any, group: Any, n_cols: int, pointers: Any, format: Any) -> Any:
    """As its namesake of matmul/numba/kernels.py: one step adds one column."""
    value_bytes, load_weights = format
    for k in range(n_cols):
        w = load_weights(group, k * 16 * value_bytes)
        acc = each(_value_pair, acc, (pointers, 4 * k, w))
    return acc


@inline
def _put(m: int, acc: Any, sums: Any) -> Any:
    store_f32x16(sums, 64 * m, acc)
    return acc


@inline
def tile_of(n_left: int) -> int:
    """Pairs of the next tile, where n_left are left: those that sums_of knows."""
    if n_left >= TILE:
        return TILE
    return 4 if n_left >= 4 else 2 if n_left >= 2 else 1


@inline
def sums_of(group: Any, n_cols: int, pointers: Any, n: int, sums: Any, kind: Any) -> None:
    """sums[m], 16 float32 each: n pairs (see tile_of) by one group of rows.

    Compiled into each place that calls it: Numba cannot cache a kernel that hands functions to
    another on disk."""
    format, pairs_of = kind
    zero = splat(0.0)
    if TILE == 8 and n == 8:
        each(_put, pairs_of(repeat(zero, 8), group, n_cols, pointers, format), (sums,))
    elif n == 4:
        each(_put, pairs_of(repeat(zero, 4), group, n_cols, pointers, format), (sums,))
    elif n == 2:
        each(_put, pairs_of(repeat(zero, 2), group, n_cols, pointers, format), (sums,))
    else:
        each(_put, pairs_of(repeat(zero, 1), group, n_cols, pointers, format), (sums,))
