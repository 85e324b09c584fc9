"""l2_norm in Numba: the query and key heads of each token, in place; one token per item."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f64,
    load_i64,
    load_pointer,
    reduce_add,
    splat,
)

# Byte offsets of the argument struct.
_N_TOKENS, _QKV, _N_HEADS, _HEAD_DIM, _ROW_STRIDE, _EPS, _Q_SCALE = range(0, 56, 8)


@inline
def _normalize(x: Any, n: int, eps: float, scale: float) -> None:
    squares = splat(0.0)
    for i in range(0, n, 16):
        v = load_n(x, 4 * i, n - i)
        squares = fma(v, v, squares)
    length = np.float32(math.sqrt(reduce_add(squares) + np.float32(eps)))
    factor = splat(np.float32(scale) / length)
    for i in range(0, n, 16):
        store_n(x, 4 * i, load_n(x, 4 * i, n - i) * factor, n - i)


def l2_norm_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, head_dim = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _HEAD_DIM)
    n_heads, stride = load_i64(args, _N_HEADS), load_i64(args, _ROW_STRIDE)
    eps, q_scale = load_f64(args, _EPS), load_f64(args, _Q_SCALE)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        for head in range(2 * n_heads):
            x = at(load_pointer(args, _QKV), 4 * (t * stride + head * head_dim))
            _normalize(x, head_dim, eps, q_scale if head < n_heads else 1.0)
