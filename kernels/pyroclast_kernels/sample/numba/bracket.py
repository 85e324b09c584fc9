"""Long lists in Numba: a sample tells between which two values a prefix ends, sums confirm it.

If the sums show that the sample was wrong, nothing is left out: the result is exact either way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.masks import (
    at_least,
    compress_f32,
    count,
    lanes_below,
    load_row,
    where_at_least,
)
from pyroclast_kernels.numba.simd import (
    apart,
    inline,
    load_f32x16,
    outline,
    reduce_add,
    splat,
    store_f32x16,
)
from pyroclast_kernels.sample.numba.lanes import BLOCK, FLOAT_MAX, LEAST, weigh
from pyroclast_kernels.sample.numba.memory import MAX_SAMPLE
from pyroclast_kernels.sample.numba.select import select_exactly

LONG_LIST = 16384


@inline
def given_weights(_: Any, i: int, weights: Any) -> Any:
    """The weights of 16 candidates are those stored beside them."""
    return load_f32x16(weights, 4 * i)


@inline
def weights_of_logits(x: Any, _: int, lowest_and_weigher: Any) -> Any:
    """The weights of 16 logits, 0 below `lowest`."""
    lowest, by = lowest_and_weigher
    return where_at_least(x, splat(lowest), weigh(x, by))


@inline
def _take_sample(values: Any, n: int, s: Any, weights_at: Any, state: Any) -> Any:
    """Every so many-th 16 of n >= LONG_LIST values, a 32nd of them all or MAX_SAMPLE: how many."""
    n_vectors = min(n // 32, MAX_SAMPLE) // 16
    stride = n // n_vectors // 16 * 16
    for i in range(n_vectors):
        x = load_f32x16(values, 4 * i * stride)
        store_f32x16(s.sample_values, 64 * i, x)
        store_f32x16(s.sample_weights, 64 * i, weights_at(x, i * stride, state))
    return n_vectors * 16


@inline
def _sum_of_sample(weights: Any, n: int) -> Any:
    """(the sum of the weights, the sum of their squares)."""
    total, squares = 0.0, 0.0
    for i in range(0, n, 16):
        w = load_f32x16(weights, 4 * i)
        total += reduce_add(w)
        squares += reduce_add(w * w)
    return total, squares


@inline
def bracket(values: Any, n: int, share: Any, s: Any, weights_at: Any, state: Any) -> Any:
    """(lower, upper, True): two values between which, as a sample tells, the prefix with `share` of
    the weight ends, more likely than not by far.  False if too few tokens carry the weight for a
    sample to tell.  weights_at(values, index, state) gives the weights of 16 values."""
    size = _take_sample(values, n, s, weights_at, state)
    total, squares = _sum_of_sample(s.sample_weights, size)
    noise = 3.0 * math.sqrt(share * (1.0 - share) * squares) / total + 2.0 / size
    lower, upper = LEAST, FLOAT_MAX
    if not noise < 0.2:  # also if the weights are all 0
        return lower, upper, False
    again = False
    if share > noise:
        goal = (share - noise) * total
        cut = select_exactly(s.sample_values, s.sample_weights, size, goal, 0.0, s.histogram)
        upper, again = cut.value, True
    if share + noise < 1.0:
        if again:
            _take_sample(values, n, s, weights_at, state)
        goal = (share + noise) * total
        cut = select_exactly(s.sample_values, s.sample_weights, size, goal, 0.0, s.histogram)
        lower = cut.value
    return lower, upper, True


@inline
def _weights_around(s: Any, n: int, lower: Any, upper: Any) -> Any:
    """The weights of the values up to `upper`, and of those from `lower` on."""
    not_above, from_lower = 0.0, 0.0
    high, low = splat(upper), splat(lower)
    for begin in range(0, n, BLOCK):
        end = min(n, begin + BLOCK)
        below, beyond = splat(0.0), splat(0.0)
        for i in range(begin, end, 16):
            x, w = load_f32x16(s.values, 4 * i), load_row(s.weights, i, n, splat(0.0))
            below = below + where_at_least(high, x, w)
            beyond = beyond + where_at_least(x, low, w)
        not_above += reduce_add(below)
        from_lower += reduce_add(beyond)
    return not_above, from_lower


@inline
def _keep_between(values: Any, weights: Any, n: int, lower: Any, upper: Any) -> Any:
    """Keeps the candidates from lower to upper, in place and in order; how many there are."""
    kept, low, high = 0, splat(lower), splat(upper)
    for i in range(0, n, 16):
        x, w = load_f32x16(values, 4 * i), load_f32x16(weights, 4 * i)
        mask = at_least(x, low) & at_least(high, x) & lanes_below(n - i)
        if mask != 0:
            compress_f32(values, 4 * kept, x, mask)
            compress_f32(weights, 4 * kept, w, mask)
            kept += count(mask)
    return kept


@outline
def select(n: int, goal: Any, total: Any, s: Any) -> Any:
    """The shortest prefix of the n candidates in s.values and s.weights whose weights reach the
    goal, 0 < goal <= total = the sum of all weights."""
    apart()
    before = 0.0
    if n >= LONG_LIST:
        lower, upper, told = bracket(s.values, n, goal / total, s, given_weights, s.weights)
        if told:
            not_above, from_lower = _weights_around(s, n, lower, upper)
            if total - not_above < goal and from_lower >= goal:
                before = total - not_above
                n = _keep_between(s.values, s.weights, n, lower, upper)
    return select_exactly(s.values, s.weights, n, goal, before, s.histogram)


@outline
def select_count(values: Any, n: int, k: int, s: Any) -> Any:
    """The first k of the n values; 1 <= k <= n, none of them -inf."""
    apart()
    for i in range(0, n, 16):
        store_f32x16(s.values, 4 * i, load_row(values, i, n, splat(0.0)))
        store_f32x16(s.weights, 4 * i, splat(1.0))
    return select(n, np.float64(k), np.float64(n), s)
