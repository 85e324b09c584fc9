"""softmax in Numba: a row of logits to probabilities or log-probabilities, as cpp.cpp does it.

Pass 1: the maximum, and whether one is NaN; a bias or a mask is applied here, into `out`.
Pass 2: weights 2^((z - maximum) * scale), scale = log2(e) / temperature, and their sum, 16 float32
        lanes for 1024 values, then float64.  For logarithms only the sum.
Pass 3: times 1 / sum, or the difference to its logarithm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.masks import bits_at, blend, load_row, store_row
from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import (
    apart,
    at,
    inline,
    load_f32x16,
    load_f64,
    load_i64,
    load_pointer,
    outline,
    reduce_add,
    splat,
    store_f32,
    store_f32x16,
)
from pyroclast_kernels.sample.numba.lanes import (
    BLOCK,
    NO_LOGIT,
    first_equal,
    scan,
    sum_of_weights,
    weigh,
    weigher,
)
from pyroclast_kernels.softmax import MIN_TEMPERATURE

# Byte offsets of the argument struct.
_LOGITS, _N_ROWS, _TEMPERATURES, _BIAS, _ALLOWED, _OUT = range(0, 48, 8)
_N_COLS, _LOGITS_STRIDE, _OUT_STRIDE, _LOG = range(48, 80, 8)


@outline
def _adjust(z: Any, n: int, args: Any, allowed: Any, out: Any) -> None:
    """Writes z + bias, or -inf where a column is not allowed."""
    apart()
    bias, has_bias = load_pointer(args, _BIAS), load_i64(args, _BIAS) != 0
    masked = load_i64(args, _ALLOWED) != 0
    for i in range(0, n, 16):
        x = load_row(z, i, n, splat(0.0))
        if has_bias:
            x = x + load_row(bias, i, n, splat(0.0))
        if masked:
            x = blend(bits_at(allowed, i), x, splat(-math.inf))
        store_row(out, i, n, x)


@inline
def _weigh_block(z: Any, out: Any, begin: int, end: int, by: Any) -> Any:
    """Writes the weights of a block; returns their sum."""
    a, b, i = splat(0.0), splat(0.0), begin
    while i + 32 <= end:
        x = weigh(load_f32x16(z, 4 * i), by)
        y = weigh(load_f32x16(z, 4 * i + 64), by)
        a, b = a + x, b + y
        store_f32x16(out, 4 * i, x)
        store_f32x16(out, 4 * i + 64, y)
        i += 32
    while i < end:
        x = weigh(load_row(z, i, end, splat(NO_LOGIT)), by)
        a = a + x
        store_row(out, i, end, x)
        i += 16
    return reduce_add(a + b)


@inline
def _probabilities(z: Any, out: Any, n: int, by: Any) -> None:
    total = 0.0
    for begin in range(0, n, BLOCK):
        total += _weigh_block(z, out, begin, min(n, begin + BLOCK), by)
    inverse = splat(np.float32(1.0 / total))
    for i in range(0, n, 16):
        store_row(out, i, n, load_row(out, i, n, splat(0.0)) * inverse)


@inline
def _log_probabilities(z: Any, out: Any, n: int, by: Any, temperature: Any) -> None:
    scale = splat(np.float32(1.0 / temperature))
    log_total = splat(np.float32(math.log(sum_of_weights(z, n, by))))
    top = splat(by.maximum)
    for i in range(0, n, 16):
        x = load_row(z, i, n, splat(0.0))
        store_row(out, i, n, (x - top) * scale - log_total)


@inline
def _fill(out: Any, n: int, value: Any) -> None:
    for i in range(0, n, 16):
        store_row(out, i, n, splat(value))


@outline
def _row(z: Any, out: Any, n: int, temperature: Any, log: bool) -> None:
    apart()
    maximum, has_nan = scan(z, n, out, False)
    if has_nan or not math.isfinite(maximum):
        _fill(out, n, np.float32(math.nan))
    elif temperature < MIN_TEMPERATURE:
        first = first_equal(z, n, maximum)
        _fill(out, n, np.float32(-math.inf) if log else np.float32(0))
        store_f32(out, 4 * first, np.float32(0) if log else np.float32(1))
    elif log:
        _log_probabilities(z, out, n, weigher(maximum, temperature), temperature)
    else:
        _probabilities(z, out, n, weigher(maximum, temperature))


def softmax_f32(args: Any, part: int, n_parts: int) -> None:
    n_rows, n = load_i64(load_pointer(args, _N_ROWS), 0), load_i64(args, _N_COLS)
    adjusts = load_i64(args, _BIAS) != 0 or load_i64(args, _ALLOWED) != 0
    temperatures, log = load_pointer(args, _TEMPERATURES), load_i64(args, _LOG) != 0
    for r in range(split_begin(n_rows, part, n_parts), split_begin(n_rows, part + 1, n_parts)):
        z = at(load_pointer(args, _LOGITS), 4 * r * load_i64(args, _LOGITS_STRIDE))
        out = at(load_pointer(args, _OUT), 4 * r * load_i64(args, _OUT_STRIDE))
        if adjusts:
            allowed = at(load_pointer(args, _ALLOWED), 4 * r * ((n + 31) // 32))
            _adjust(z, n, args, allowed, out)
            z = out
        temperature = 1.0
        if load_i64(args, _TEMPERATURES) != 0:
            temperature = load_f64(temperatures, 8 * r)
        _row(z, out, n, temperature, log)
