"""altup_predict, altup_correct and match_rms in Numba: as in cpp.cpp, one token per item."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.norm.numba_rows import RMS, norm_of_row, normed
from pyroclast_kernels.numba.math import load_n, split_begin, store_n, tanh
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f32,
    load_f32x16,
    load_f64,
    load_i64,
    load_pointer,
    reduce_add,
    splat,
    stack,
    store_f32,
    store_f32x16,
)

# Byte offsets of the argument structs.
_N_TOKENS, _STREAMS = 0, 8
_P_WEIGHT, _P_ROUTER, _P_COEFS, _P_OUT, _P_SIZES = 16, 24, 32, 40, 48
_C_PREDICTED, _C_WEIGHT, _C_ROUTER, _C_COEFS, _C_OUT_SCALE, _C_OUT, _C_SIZES = range(16, 72, 8)
_D_MODEL, _N_STREAMS, _STRIDE, _EPS, _SCALE = range(0, 40, 8)  # from the sizes on
_M_X, _M_Y, _M_D_MODEL, _M_FLOOR = range(8, 40, 8)


@inline
def _modalities(sizes: Any, x: Any, weight: Any, router: Any, m: Any) -> None:
    """m[k] = tanh(router[k] . (scale * N(x))) of every stream; m has room for 16."""
    d, n = load_i64(sizes, _D_MODEL), load_i64(sizes, _N_STREAMS)
    row = norm_of_row(x, d, load_f64(sizes, _EPS), RMS)
    scale, sums = splat(np.float32(load_f64(sizes, _SCALE))), stack(512)
    for k in range(n):
        store_f32x16(sums, 64 * k, splat(0.0))
    for i in range(0, d, 16):
        y = normed(row, x, weight, weight, False, i, d - i) * scale
        for k in range(n):
            total = fma(y, load_n(router, 4 * (k * d + i), d - i), load_f32x16(sums, 64 * k))
            store_f32x16(sums, 64 * k, total)
    store_f32x16(m, 0, splat(0.0))
    for k in range(n):
        store_f32(m, 4 * k, reduce_add(load_f32x16(sums, 64 * k)))
    store_f32x16(m, 0, tanh(load_f32x16(m, 0)))


@inline
def _combined(row: Any, m: Any, n: int, first: Any) -> Any:
    """first + row . m, from left to right, in all lanes."""
    total = splat(first)
    for k in range(n):
        total = fma(splat(load_f32(row, 4 * k)), splat(load_f32(m, 4 * k)), total)
    return total


@inline
def _predict_columns(x: Any, stride: int, c: Any, old: Any, n: int, i: int, left: int) -> None:
    """Columns i .. i + 15 of every stream; `left` columns are left."""
    for j in range(n):
        store_f32x16(old, 64 * j, load_n(x, 4 * (j * stride + i), left))
    for j in range(n):
        total = load_f32x16(old, 64 * j)
        for k in range(n):
            total = fma(load_f32x16(c, 64 * (j * n + k)), load_f32x16(old, 64 * k), total)
        store_n(x, 4 * (j * stride + i), total, left)


def altup_predict_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, sizes = load_i64(load_pointer(args, _N_TOKENS), 0), at(args, _P_SIZES)
    d, n, stride = (
        load_i64(sizes, _D_MODEL),
        load_i64(sizes, _N_STREAMS),
        load_i64(sizes, _STRIDE),
    )
    coefs, m, c, old = load_pointer(args, _P_COEFS), stack(64), stack(4096), stack(512)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        x = at(load_pointer(args, _STREAMS), 4 * t * d)
        out = at(load_pointer(args, _P_OUT), 4 * t * d)
        _modalities(sizes, x, load_pointer(args, _P_WEIGHT), load_pointer(args, _P_ROUTER), m)
        for k in range(n * n):
            store_f32x16(c, 64 * k, _combined(at(coefs, 4 * k * n), m, n, np.float32(0)))
        for i in range(0, d, 16):
            _predict_columns(x, stride, c, old, n, i, d - i)
            store_n(out, 4 * i, load_n(x, 4 * i, d - i), d - i)


def altup_correct_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, sizes = load_i64(load_pointer(args, _N_TOKENS), 0), at(args, _C_SIZES)
    d, n, stride = (
        load_i64(sizes, _D_MODEL),
        load_i64(sizes, _N_STREAMS),
        load_i64(sizes, _STRIDE),
    )
    coefs, m, c = load_pointer(args, _C_COEFS), stack(64), stack(512)
    out_scale, scales = load_pointer(args, _C_OUT_SCALE), load_i64(args, _C_OUT_SCALE) != 0
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        x = at(load_pointer(args, _STREAMS), 4 * t * d)
        out = at(load_pointer(args, _C_OUT), 4 * t * d)
        predicted = at(load_pointer(args, _C_PREDICTED), 4 * t * d)
        _modalities(sizes, x, load_pointer(args, _C_WEIGHT), load_pointer(args, _C_ROUTER), m)
        for k in range(n):
            store_f32x16(c, 64 * k, _combined(at(coefs, 4 * k * n), m, n, np.float32(1)))
        for i in range(0, d, 16):
            left = d - i
            before = load_n(predicted, 4 * i, left)
            change = load_n(x, 4 * i, left) - before
            first = fma(load_f32x16(c, 0), change, before)
            store_n(x, 4 * i, first, left)
            for j in range(1, n):
                other = 4 * (j * stride + i)
                store_n(x, other, fma(load_f32x16(c, 64 * j), change, load_n(x, other, left)), left)
            store_n(out, 4 * i, first * load_n(out_scale, 4 * i, left) if scales else first, left)


@inline
def _mean_of_squares(x: Any, d: int) -> Any:
    squares = splat(0.0)
    for i in range(0, d, 16):
        v = load_n(x, 4 * i, d - i)
        squares = fma(v, v, squares)
    return reduce_add(squares) / np.float32(d)


def match_rms_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, d = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _M_D_MODEL)
    floor = np.float32(load_f64(args, _M_FLOOR))
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        x = at(load_pointer(args, _M_X), 4 * t * d)
        y = at(load_pointer(args, _M_Y), 4 * t * d)
        wanted, own = np.float32(math.sqrt(_mean_of_squares(x, d))), _mean_of_squares(y, d)
        own = floor if own < floor else own  # a NaN stays one
        factor = splat(wanted / np.float32(math.sqrt(own)))
        for i in range(0, d, 16):
            store_n(y, 4 * i, load_n(y, 4 * i, d - i) * factor, d - i)
