"""residual in Numba: x[t] += scale * N(y[t]), then x[t] *= x_scale; one token per item.  See
norm/numba_rows.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.norm.numba_rows import norm_of_row, normed
from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import at, load_f32, load_f64, load_i64, load_pointer, splat
from pyroclast_kernels.residual import AS_IT_IS

# Byte offsets of the argument struct.
_N_TOKENS, _X, _Y, _WEIGHT, _BIAS, _X_SCALE, _D_MODEL, _EPS, _KIND, _SCALE = range(0, 80, 8)


def residual_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, d_model = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _D_MODEL)
    weight, bias = load_pointer(args, _WEIGHT), load_pointer(args, _BIAS)
    has_bias, kind = load_i64(args, _BIAS) != 0, load_i64(args, _KIND)
    scale, x_scale = splat(np.float32(load_f64(args, _SCALE))), splat(1.0)
    if load_i64(args, _X_SCALE) != 0:
        x_scale = splat(load_f32(load_pointer(args, _X_SCALE), 0))
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        x = at(load_pointer(args, _X), 4 * t * d_model)
        y = at(load_pointer(args, _Y), 4 * t * d_model)
        if kind == AS_IT_IS:
            for i in range(0, d_model, 16):
                n = d_model - i
                total = load_n(x, 4 * i, n) + scale * load_n(y, 4 * i, n)
                store_n(x, 4 * i, total * x_scale, n)
        else:
            row = norm_of_row(y, d_model, load_f64(args, _EPS), kind)
            for i in range(0, d_model, 16):
                n = d_model - i
                added = scale * normed(row, y, weight, bias, has_bias, i, n)
                store_n(x, 4 * i, (load_n(x, 4 * i, n) + added) * x_scale, n)
