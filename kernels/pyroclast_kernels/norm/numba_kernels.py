"""RMS and layer norm in Numba: one token per item; sums run in 16 lanes, as in cpp/rows.h."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.activation.numba.quantize import Q8_BYTES, quantize_block
from pyroclast_kernels.norm.numba_rows import norm_of_row, normed
from pyroclast_kernels.numba.math import split_begin, store_n
from pyroclast_kernels.numba.simd import at, load_f64, load_i32, load_i64, load_pointer

# Byte offsets of the argument struct.
_N_TOKENS, _ROWS, _X, _WEIGHT, _BIAS, _OUT, _OUT_Q8, _D_MODEL, _EPS, _KIND = range(0, 80, 8)


def norm_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, d_model = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _D_MODEL)
    rows, weight = load_pointer(args, _ROWS), load_pointer(args, _WEIGHT)
    bias, has_bias = load_pointer(args, _BIAS), load_i64(args, _BIAS) != 0
    out, out_q8 = load_pointer(args, _OUT), load_pointer(args, _OUT_Q8)
    chooses_rows = load_i64(args, _ROWS) != 0
    wants_values, wants_q8 = load_i64(args, _OUT) != 0, load_i64(args, _OUT_Q8) != 0
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        source = np.int64(load_i32(rows, 4 * t)) if chooses_rows else t
        x = at(load_pointer(args, _X), 4 * source * d_model)
        row = norm_of_row(x, d_model, load_f64(args, _EPS), load_i64(args, _KIND))
        for i in range(0, d_model, 32):
            n = d_model - i
            low = normed(row, x, weight, bias, has_bias, i, n)
            high = normed(row, x, weight, bias, has_bias, i + 16, n - 16)
            if wants_values:
                store_n(out, 4 * (t * d_model + i), low, n)
                store_n(out, 4 * (t * d_model + i) + 64, high, n - 16)
            if wants_q8:
                quantize_block(low, high, at(out_q8, (t * d_model + i) // 32 * Q8_BYTES))
