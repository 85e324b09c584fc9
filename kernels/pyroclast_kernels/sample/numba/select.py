"""How far a prefix of the falling order reaches, without sorting: by count or by weight.  In Numba.

The way of select.h: values are spread over the buckets of a histogram, from the largest down; the
bucket in which the running sum reaches its goal is taken apart by the next level, until it holds
one value or few.  Level 0 cuts the range of values evenly, later ones the range of their bit
patterns, 10 bits a time, so there are at most 4 more whatever the values: no input is slow.  A
long list is first narrowed to the neighbourhood of the goal: see bracket.py.

Candidates are values and weights (float32, weights >= 0 and not all 0, room for n and 16 more),
which are used up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyroclast_kernels.numba.masks import (
    compress_f32,
    count,
    equal_i32,
    keys_below,
    lanes_below,
    load_row,
    ordered,
)
from pyroclast_kernels.numba.math import maximum, minimum
from pyroclast_kernels.numba.simd import (
    apart,
    inline,
    load_f32,
    load_f32x16,
    load_f64,
    load_i32,
    load_i64,
    outline,
    reduce_max,
    splat,
    splat_i32,
    stack,
    store_f64,
    store_i32x16,
    store_i64,
    to_int,
)
from pyroclast_kernels.sample.numba.lanes import ALL_TIES, FLOAT_MAX, Cut
from pyroclast_kernels.sample.numba.memory import BUCKETS, COPIES
from pyroclast_kernels.sample.numba.sort import falling_key, index_of_key, sorted_keys

_SHORT_LIST = 128  # sorting so many takes less time than clearing a histogram
_KEY_BYTES = 8 * _SHORT_LIST


class Spread(NamedTuple):
    """How values become buckets: evenly (maximum, scale float32), or by bit pattern (key, shift
    int32).  Bucket 0 has the largest; the bucket never rises with the value."""

    even: Any
    maximum: Any
    scale: Any
    key: Any
    shift: Any


@inline
def _spread(least: Any, most: Any, first_level: bool) -> Any:
    reach = most - least
    steps = np.float32(BUCKETS - 1) / reach
    even = first_level and reach <= FLOAT_MAX and steps <= FLOAT_MAX
    keys = (np.int64(ordered(most)) - np.int64(ordered(least))) & 0xFFFFFFFF
    shift = 0
    while (keys >> shift) >= BUCKETS:
        shift += 1
    return Spread(even, most, steps, ordered(most), np.int32(shift))


@inline
def _buckets(x: Any, spread: Any) -> Any:
    if spread.even:
        scaled = (splat(spread.maximum) - x) * splat(spread.scale)
        return to_int(minimum(scaled, splat(BUCKETS - 1)))
    return keys_below(x, spread.key, spread.shift)


@inline
def least_and_most(x: Any, n: int) -> Any:
    low = splat(load_f32(x, 0))
    high = low
    for i in range(0, n, 16):
        v = load_row(x, i, n, splat(load_f32(x, 0)))
        low, high = minimum(v, low), maximum(v, high)
    return -reduce_max(splat(0.0) - low), reduce_max(high)


@inline
def _add_weight(histogram: Any, buckets: Any, lane: int, weights: Any, i: int) -> None:
    place = 8 * (np.int64(load_i32(buckets, 4 * lane)) * COPIES + (lane & 3))
    weight = load_f32(weights, 4 * (i + lane))
    store_f64(histogram, place, load_f64(histogram, place) + weight)


@inline
def _fill_histogram(histogram: Any, values: Any, weights: Any, n: int, spread: Any) -> None:
    for b in range(BUCKETS * COPIES):
        store_f64(histogram, 8 * b, 0.0)
    buckets = stack(64)
    for i in range(0, n, 16):
        x = load_row(values, i, n, splat(load_f32(values, 4 * i)))
        store_i32x16(buckets, 0, _buckets(x, spread))
        if n - i >= 16:
            for j in range(16):  # unrolled
                _add_weight(histogram, buckets, j, weights, i)
        else:
            for j in range(n - i):
                _add_weight(histogram, buckets, j, weights, i)


@inline
def _crossing(histogram: Any, goal: Any, before: Any) -> Any:
    """(the first bucket whose running sum, begun at `before`, reaches the goal, what lies before
    it).  Rounding may keep the sum from its goal for ever: then it is the last bucket that holds
    anything."""
    last, before_last, running = 0, before, before
    for b in range(BUCKETS):
        place = 8 * b * COPIES
        first = load_f64(histogram, place) + load_f64(histogram, place + 8)
        here = first + (load_f64(histogram, place + 16) + load_f64(histogram, place + 24))
        if here > 0.0:
            last, before_last = b, running
            running += here
            if running >= goal:
                break
    return last, before_last


@inline
def _keep_bucket(values: Any, weights: Any, n: int, spread: Any, bucket: int) -> Any:
    """Keeps the candidates of one bucket, in place and in order; how many there are."""
    kept, wanted = 0, splat_i32(np.int32(bucket))
    for i in range(0, n, 16):
        x, w = load_f32x16(values, 4 * i), load_f32x16(weights, 4 * i)
        mask = equal_i32(_buckets(x, spread), wanted) & lanes_below(n - i)
        if mask != 0:
            compress_f32(values, 4 * kept, x, mask)  # behind what has been read
            compress_f32(weights, 4 * kept, w, mask)
            kept += count(mask)
    return kept


@inline
def _ties_needed(weights: Any, n: Any, goal: Any, before: Any) -> Any:
    """How many of n equal values it takes, in their order, for the sum to reach its goal."""
    least, most = least_and_most(weights, n)
    taken = np.int64(0)
    if least == most:  # no need to walk through what may be the whole vocabulary
        needed = np.ceil((goal - before) / most)
        taken = np.int64(1) if needed < 1.0 else np.int64(needed) if needed < n else n
    else:
        while taken == 0 or (taken < n and before < goal):
            before += load_f32(weights, 4 * taken)
            taken += 1
    return ALL_TIES if taken == n else taken


@inline
def _select_short(values: Any, weights: Any, n: int, goal: Any, before: Any) -> Any:
    keys = stack(_KEY_BYTES)
    for i in range(n):
        store_i64(keys, 8 * i, falling_key(load_f32(values, 4 * i), i))
    order = sorted_keys(keys, stack(_KEY_BYTES), n)
    last, n_ties = 0, np.int64(1)
    value = load_f32(values, 4 * index_of_key(load_i64(order, 0)))
    running = before + load_f32(weights, 4 * index_of_key(load_i64(order, 0)))
    while running < goal and last + 1 < n:
        last += 1
        i = index_of_key(load_i64(order, 8 * last))
        running += load_f32(weights, 4 * i)
        n_ties = n_ties + 1 if load_f32(values, 4 * i) == value else np.int64(1)
        value = load_f32(values, 4 * i)
    if last + 1 == n or load_f32(values, 4 * index_of_key(load_i64(order, 8 * last + 8))) != value:
        n_ties = ALL_TIES
    return Cut(value, n_ties)


@outline
def select_exactly(
    values: Any, weights: Any, n: int, goal: Any, before: Any, histogram: Any
) -> Any:
    """The shortest prefix whose weights and `before` together reach the goal, as a Cut."""
    apart()
    first_level = True
    while n > _SHORT_LIST:
        least, most = least_and_most(values, n)
        if least == most:
            return Cut(most, _ties_needed(weights, n, goal, before))
        spread = _spread(least, most, first_level)
        _fill_histogram(histogram, values, weights, n, spread)
        bucket, before = _crossing(histogram, goal, before)
        n = _keep_bucket(values, weights, n, spread, bucket)
        first_level = False
    return _select_short(values, weights, n, goal, before)
