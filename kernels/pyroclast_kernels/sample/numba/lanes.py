"""Weights of tokens in Numba, and passes over a row of logits or a list that a cut left of it.

Lanes, blocks and the order of every sum are those of lanes.h and list.h, so on a CPU with fused
multiply-add a row comes out as from the C++ kernels, to the bit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyroclast_kernels.numba.masks import (
    above,
    at_least,
    count,
    equal,
    floor,
    load_row,
    lowest_bit,
    lowest_bits,
    times_power_of_floor,
    unordered,
    where_at_least,
)
from pyroclast_kernels.numba.math import maximum
from pyroclast_kernels.numba.simd import (
    apart,
    fma,
    inline,
    load_f32x16,
    outline,
    reduce_add,
    reduce_max,
    splat,
    store_f32x16,
)

BLOCK = 1024  # tokens whose weights are summed together in float32
STRIDE = 64  # vectors of a chunk; each of its 16 lanes is a group of values
ALL_TIES = np.int64(2**63 - 1)
LOG2E = 1.4426950408889634
FLOAT_MAX = np.float32(np.finfo(np.float32).max)
LEAST = np.float32(np.finfo(np.float32).min)
NO_LOGIT = np.float32(-np.inf)


class Weigher(NamedTuple):
    """Weights exp((logit - maximum) / temperature); scale float32 = log2(e) / temperature."""

    maximum: Any
    scale: Any


class Cut(NamedTuple):
    """A prefix of the falling order: every value above `value` (float32), and the first n_ties
    (int64), in array order, that equal it."""

    value: Any
    n_ties: Any


@inline
def power(y: Any) -> Any:
    """2^y for y <= 0: 2^n times a polynomial in f, y = n + f, n = floor(y): lanes.h's, minimax on
    [0, 1].  Relative error 1.5e-7; exactly 1 at 0, and 0 below 2^-125 (and at -inf)."""
    f = y - floor(y)
    p = fma(splat(1.86713005e-3), f, splat(9.01703164e-3))
    p = fma(p, f, splat(5.57999127e-2))
    p = fma(p, f, splat(2.40164474e-1))
    p = fma(p, f, splat(6.93151295e-1))
    p = fma(p, f, splat(1.0))
    return where_at_least(y, splat(-125.0), times_power_of_floor(p, y))


@inline
def weigher(top: Any, temperature: Any) -> Any:
    return Weigher(top, np.float32(LOG2E / temperature))


@inline
def weigh(x: Any, by: Any) -> Any:
    """The weights of 16 logits."""
    return power((x - splat(by.maximum)) * splat(by.scale))


@inline
def logit_of_weight(weight: Any, by: Any) -> Any:
    """The logit, not rounded to float32, of a weight > 0; at least the least float."""
    return max(np.float64(LEAST), np.float64(by.maximum) + math.log2(weight) / by.scale)


# ---- passes -------------------------------------------------------------------------------------


@inline
def _maximum_of_chunk(x: Any, i: int) -> Any:
    """(the maximum of each lane of STRIDE vectors, the lanes in which one was NaN)."""
    m0 = splat(NO_LOGIT)
    m1, m2, m3, nan = m0, m0, m0, np.int64(0)
    for j in range(4 * i, 4 * i + 64 * STRIDE, 256):
        a, b = load_f32x16(x, j), load_f32x16(x, j + 64)
        c, d = load_f32x16(x, j + 128), load_f32x16(x, j + 192)
        m0, m1, m2, m3 = maximum(m0, a), maximum(m1, b), maximum(m2, c), maximum(m3, d)
        nan |= unordered(a, b) | unordered(c, d)
    return maximum(maximum(m0, m1), maximum(m2, m3)), nan


@outline
def scan(x: Any, n: int, groups: Any, wants_groups: bool) -> Any:
    """(the maximum of n >= 1 values, whether one is NaN).  If wants_groups, also writes the
    maximum of each group of the whole chunks to `groups`: n // (16 STRIDE) * 16 floats.  A group
    of -inf alone gets the least finite float."""
    apart()
    most, nan, i = splat(NO_LOGIT), np.int64(0), 0
    while i + 16 * STRIDE <= n:
        of_chunk, nan_here = _maximum_of_chunk(x, i)
        nan |= nan_here
        most = maximum(most, of_chunk)
        i += 16 * STRIDE
        if wants_groups:
            store_f32x16(groups, 4 * (i // STRIDE - 16), maximum(of_chunk, splat(LEAST)))
    while i < n:
        a = load_row(x, i, n, splat(NO_LOGIT))
        most = maximum(most, a)
        nan |= unordered(a, a)
        i += 16
    return reduce_max(most), nan != 0


@outline
def first_equal(x: Any, n: int, wanted: Any) -> Any:
    """The index of the first value that equals `wanted`, which occurs."""
    apart()
    i = 0
    while True:
        mask = equal(load_row(x, i, n, splat(wanted)), splat(wanted))
        if mask != 0:
            return i + lowest_bit(mask)
        i += 16


@outline
def count_above(x: Any, n: int, limit: Any) -> Any:
    apart()
    found = 0
    for i in range(0, n, 16):
        found += count(above(load_row(x, i, n, splat(NO_LOGIT)), splat(limit)))
    return found


@inline
def sum_over(x: Any, n: int, lowest: Any, f: Any, state: Any) -> Any:
    """sum(f(x, state)) over the values that are at least `lowest`, by blocks; f takes and gives 16
    lanes."""
    total, least = 0.0, splat(lowest)
    for begin in range(0, n, BLOCK):
        end = min(n, begin + BLOCK)
        first, second, i = splat(0.0), splat(0.0), begin
        while i + 32 <= end:
            a, b = load_f32x16(x, 4 * i), load_f32x16(x, 4 * i + 64)
            first = first + where_at_least(a, least, f(a, state))
            second = second + where_at_least(b, least, f(b, state))
            i += 32
        while i < end:
            a = load_row(x, i, end, splat(NO_LOGIT))
            first = first + where_at_least(a, least, f(a, state))
            i += 16
        total += reduce_add(first + second)
    return total


@outline
def sum_of_weights(x: Any, n: int, by: Any) -> Any:
    apart()
    return sum_over(x, n, LEAST, weigh, by)


@inline
def _one(_x: Any, _state: Any) -> Any:
    return splat(1.0)


@inline
def _difference(x: Any, top: Any) -> Any:
    return x - splat(top)


@inline
def _squared_difference(x: Any, top_and_shift: Any) -> Any:
    d = (x - splat(top_and_shift[0])) - splat(top_and_shift[1])
    return d * d


@outline
def deviation(x: Any, n: int, top: Any) -> Any:
    """The population standard deviation of the finite values; two passes, for float32 sums."""
    apart()
    n_finite = sum_over(x, n, LEAST, _one, top)
    mean = sum_over(x, n, LEAST, _difference, top) / n_finite
    shift = (top, np.float32(mean))
    return math.sqrt(sum_over(x, n, LEAST, _squared_difference, shift) / n_finite)


@outline
def store_weights(x: Any, n: int, weights: Any, by: Any) -> Any:
    """Writes the weights of n logits, and of up to 15 more; returns their sum."""
    apart()
    total = 0.0
    for begin in range(0, n, BLOCK):
        end = min(n, begin + BLOCK)
        in_block = splat(0.0)
        for i in range(begin, end, 16):
            w = weigh(load_row(x, i, end, splat(NO_LOGIT)), by)
            in_block = in_block + w
            store_f32x16(weights, 4 * i, w)
        total += reduce_add(in_block)
    return total


@inline
def inside(x: Any, cut: Any, ties_left: int) -> Any:
    """(which of 16 values belong to a prefix, how many ties are left after them): called along the
    row, it counts them down; ALL_TIES is never counted."""
    if ties_left == ALL_TIES:
        return at_least(x, splat(cut.value)), ties_left
    over, tied = above(x, splat(cut.value)), equal(x, splat(cut.value))
    if ties_left < count(tied):
        tied = lowest_bits(tied, ties_left)
    return over | tied, ties_left - count(tied)
