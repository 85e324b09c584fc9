# $contract

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_i64, load_pointer

OP = "matmul"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    X,
    WEIGHT,
    BIAS,
    OUT,
    N_ROWS,
    N_COLS,
    OUT_STRIDE,
    ACCUMULATE,
) = range(0, 72, 8)


def matmul_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    n_rows, n_cols = load_i64(args, N_ROWS), load_i64(args, N_COLS)
    out_stride, accumulate = load_i64(args, OUT_STRIDE), load_i64(args, ACCUMULATE) != 0
    x = carray(load_pointer(args, X), (n_tokens, n_cols), np.float32)
    # Weights are packed: 16 rows side by side, column after column (weights/packing.py).
    shape = ((n_rows + 15) // 16, n_cols, 16)
    weight = carray(load_pointer(args, WEIGHT), shape, np.float32)
    bias = carray(load_pointer(args, BIAS), n_rows, np.float32)
    has_bias = load_i64(args, BIAS) != 0
    out = carray(load_pointer(args, OUT), (n_tokens, out_stride), np.float32)
    for row in range(split_begin(n_rows, part, n_parts), split_begin(n_rows, part + 1, n_parts)):
        for t in range(n_tokens):
            total = np.float32(0)
            for k in range(n_cols):
                total += weight[row // 16, k, row % 16] * x[t, k]
            if has_bias:
                total += bias[row]
            out[t, row] = out[t, row] + total if accumulate else total
