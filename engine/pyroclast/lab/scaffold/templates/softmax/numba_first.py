# $contract

import math

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_i64, load_pointer

OP = "softmax"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    LOGITS,
    N_ROWS,
    TEMPERATURES,
    BIAS,
    ALLOWED,
    OUT,
    N_COLS,
    LOGITS_STRIDE,
    OUT_STRIDE,
    LOG,
) = range(0, 80, 8)


def softmax_f32(args, part, n_parts):
    n_rows, n_cols = load_i64(load_pointer(args, N_ROWS), 0), load_i64(args, N_COLS)
    logits_stride, out_stride = load_i64(args, LOGITS_STRIDE), load_i64(args, OUT_STRIDE)
    n_words = (n_cols + 31) // 32
    logits = carray(load_pointer(args, LOGITS), (n_rows, logits_stride), np.float32)
    out = carray(load_pointer(args, OUT), (n_rows, out_stride), np.float32)
    temperatures = carray(load_pointer(args, TEMPERATURES), n_rows, np.float64)
    bias = carray(load_pointer(args, BIAS), n_cols, np.float32)
    allowed = carray(load_pointer(args, ALLOWED), (n_rows, n_words), np.uint32)
    has_temperatures, has_bias = load_i64(args, TEMPERATURES) != 0, load_i64(args, BIAS) != 0
    has_allowed, log = load_i64(args, ALLOWED) != 0, load_i64(args, LOG) != 0
    for r in range(split_begin(n_rows, part, n_parts), split_begin(n_rows, part + 1, n_parts)):
        temperature = temperatures[r] if has_temperatures else 1.0
        best, at, is_bad = -math.inf, 0, False
        for i in range(n_cols):  # z of every column goes to out first: out may be logits itself
            z = logits[r, i]
            if has_bias:
                z += bias[i]
            if has_allowed and (allowed[r, i // 32] >> (i % 32)) & 1 == 0:
                z = np.float32(-np.inf)
            out[r, i] = z
            is_bad |= math.isnan(z)
            if z > best:
                best, at = z, i
        if is_bad or math.isinf(best):  # a NaN, a +inf, or nothing finite
            for i in range(n_cols):
                out[r, i] = np.nan
        elif temperature < 1e-5:
            for i in range(n_cols):
                hit = i == at
                out[r, i] = (0.0 if hit else -np.inf) if log else (1.0 if hit else 0.0)
        else:
            total = 0.0
            for i in range(n_cols):
                total += math.exp((out[r, i] - best) / temperature)
            for i in range(n_cols):
                x = (out[r, i] - best) / temperature
                out[r, i] = x - math.log(total) if log else math.exp(x) / total
