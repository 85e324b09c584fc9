# $contract

import math

import numba
import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer, stack

OP = "norm"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    ROWS,
    X,
    WEIGHT,
    BIAS,
    OUT,
    OUT_Q8,
    D_MODEL,
    EPS,
    KIND,
) = range(0, 80, 8)


from pyroclast.lab.scaffold.templates.quantize_block import quantize_block


def norm_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    d_model, eps = load_i64(args, D_MODEL), load_f64(args, EPS)
    rows = carray(load_pointer(args, ROWS), n_tokens, np.int32)
    weight = carray(load_pointer(args, WEIGHT), d_model, np.float32)
    bias = carray(load_pointer(args, BIAS), d_model, np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, d_model), np.float32)
    has_rows, has_out = load_i64(args, ROWS) != 0, load_i64(args, OUT) != 0
    has_q8, has_bias = load_i64(args, OUT_Q8) != 0, load_i64(args, BIAS) != 0
    is_layer = load_i64(args, KIND) == 1
    y = carray(stack(128), 32, np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        row = rows[t] if has_rows else t
        x = carray(load_pointer(args, X), (row + 1, d_model), np.float32)[row]
        mean, squares = 0.0, 0.0  # the mean of a layer norm; an RMS norm subtracts none
        if is_layer:
            for i in range(d_model):
                mean += np.float64(x[i]) / d_model
        for i in range(d_model):
            centred = np.float32(x[i] - mean)
            squares += np.float64(centred * centred)
        scale = np.float32(1.0 / math.sqrt(squares / d_model + eps))
        for i in range(d_model):
            y[i % 32] = np.float32(x[i] - mean) * scale * weight[i]
            if has_bias:
                y[i % 32] += bias[i]
            if has_out:
                out[t, i] = y[i % 32]
            if has_q8 and i % 32 == 31:
                quantize_block(y, load_pointer(args, OUT_Q8), (t * d_model + i) // 32)
