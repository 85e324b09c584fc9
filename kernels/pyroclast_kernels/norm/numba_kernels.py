"""RMS norm in Numba: one token per item; the sum of squares runs in 16 lanes, as in cpp.cpp."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.activation.numba.quantize import Q8_BYTES, quantize_block
from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f64,
    load_i32,
    load_i64,
    load_pointer,
    reduce_add,
    splat,
)

# Byte offsets of the argument struct.
_N_TOKENS, _ROWS, _X, _WEIGHT, _OUT, _OUT_Q8, _D_MODEL, _EPS = range(0, 64, 8)


@inline
def _inverse_rms(x: Any, d_model: int, eps: float) -> Any:
    """1 / sqrt(mean(x^2) + eps), in all lanes."""
    squares = splat(0.0)
    for i in range(0, d_model, 16):
        v = load_n(x, 4 * i, d_model - i)
        squares = fma(v, v, squares)
    mean = reduce_add(squares) / np.float32(d_model)
    return splat(np.float32(1) / np.float32(math.sqrt(mean + np.float32(eps))))


def norm_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, d_model = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _D_MODEL)
    rows, weight = load_pointer(args, _ROWS), load_pointer(args, _WEIGHT)
    out, out_q8 = load_pointer(args, _OUT), load_pointer(args, _OUT_Q8)
    chooses_rows = load_i64(args, _ROWS) != 0
    wants_values, wants_q8 = load_i64(args, _OUT) != 0, load_i64(args, _OUT_Q8) != 0
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        row = np.int64(load_i32(rows, 4 * t)) if chooses_rows else t
        x = at(load_pointer(args, _X), 4 * row * d_model)
        scale = _inverse_rms(x, d_model, load_f64(args, _EPS))
        for i in range(0, d_model, 32):
            n = d_model - i
            low = load_n(x, 4 * i, n) * scale * load_n(weight, 4 * i, n)
            high = load_n(x, 4 * i + 64, n - 16) * scale * load_n(weight, 4 * i + 64, n - 16)
            if wants_values:
                store_n(out, 4 * (t * d_model + i), low, n)
                store_n(out, 4 * (t * d_model + i) + 64, high, n - 16)
            if wants_q8:
                quantize_block(low, high, at(out_q8, (t * d_model + i) // 32 * Q8_BYTES))
