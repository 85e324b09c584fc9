"""The cuts that leave a list or a threshold, in Numba: top-k, typical-p, top-n-sigma and min-p."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.masks import load_row
from pyroclast_kernels.numba.math import maximum
from pyroclast_kernels.numba.simd import (
    absolute,
    apart,
    inline,
    load_f32x16,
    outline,
    splat,
    store_f32x16,
)
from pyroclast_kernels.sample.numba.bracket import select, select_count
from pyroclast_kernels.sample.numba.draw import keep
from pyroclast_kernels.sample.numba.lanes import (
    LEAST,
    STRIDE,
    deviation,
    store_weights,
    sum_over,
    weigh,
)


@inline
def _at_least_float(x: Any) -> Any:
    """The smallest float32 that is at least x, and never -inf."""
    if x <= np.float64(LEAST):
        return LEAST
    f = np.float32(x)
    return np.nextafter(f, np.float32(math.inf)) if np.float64(f) < x else f


@outline
def threshold(z: Any, n: int, top: Any, top_n_sigma: Any, min_p: Any, temperature: Any) -> Any:
    """The logit below which top_n_sigma or min_p cuts; the least float keeps all but -inf."""
    apart()
    lowest = -math.inf
    if top_n_sigma > 0.0:
        lowest = top - top_n_sigma * deviation(z, n, top)
    if min_p > 0.0:
        lowest = max(lowest, top + temperature * math.log(min_p))
    return _at_least_float(lowest)


@inline
def _store_groups(z: Any, n_groups: int, stride: int, keys: Any) -> None:
    """The maxima of the groups of `stride` vectors, or the least float for -inf."""
    for g in range(0, n_groups, 16):
        most = splat(LEAST)
        for i in range(stride):
            most = maximum(most, load_f32x16(z, 4 * (g * stride + 16 * i)))
        store_f32x16(keys, 4 * g, most)


@outline
def bound_of_kth(z: Any, n: int, k: int, s: Any) -> Any:
    """A lower bound of the k-th largest value: the k-th largest of the maxima of at least 4 k
    groups; the least float if that would take groups of a few values.  s.groups: as scan left it.
    """
    apart()
    n_vectors, stride = n // 16, STRIDE
    while stride > 1 and n_vectors // stride * 16 < 4 * k:
        stride //= 4
    if stride == 1:
        return LEAST
    n_groups = n_vectors // stride * 16
    if stride == STRIDE:
        return select_count(s.groups, n_groups, k, s).value
    _store_groups(z, n_groups, stride, s.keys)
    return select_count(s.keys, n_groups, k, s).value


@inline
def _moment(x: Any, near_and_weigher: Any) -> Any:
    near, by = near_and_weigher
    return weigh(x, by) * (x - splat(near))


@outline
def cut_typical(n: int, typical_p: Any, by: Any, s: Any) -> Any:
    """Stage 10 on the list of n tokens, by closeness to the mean logit; how many are left.  The
    mean is found in two steps and kept as the sum of two floats: a distance is then exact to its
    own last places, however far the maximum logit is."""
    apart()
    total = store_weights(s.logits, n, s.weights, by)
    mean, rest = by.maximum, np.float32(0)
    for _ in range(2):
        moment = sum_over(s.logits, n, LEAST, _moment, (mean, by))
        better = mean + moment / total
        mean = np.float32(better)
        rest = np.float32(better - mean)
    for i in range(0, n, 16):
        distance = absolute((load_f32x16(s.logits, 4 * i) - splat(mean)) - splat(rest))
        store_f32x16(s.keys, 4 * i, splat(0.0) - distance)
    if typical_p <= 0.0:
        return keep(s.ids, s.logits, n, s.keys, select_count(s.keys, n, 1, s))
    for i in range(0, n, 16):
        store_f32x16(s.values, 4 * i, load_row(s.keys, i, n, splat(0.0)))
    cut = select(n, typical_p * total, total, s)
    return keep(s.ids, s.logits, n, s.keys, cut)
