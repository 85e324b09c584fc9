# $contract

import math

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f32, load_f64, load_i64, load_pointer

OP = "residual"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    X,
    Y,
    WEIGHT,
    BIAS,
    X_SCALE,
    D_MODEL,
    EPS,
    KIND,
    SCALE,
) = range(0, 80, 8)


def residual_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    d_model, eps, kind = load_i64(args, D_MODEL), load_f64(args, EPS), load_i64(args, KIND)
    scale, has_bias = np.float32(load_f64(args, SCALE)), load_i64(args, BIAS) != 0
    x_scale = np.float32(1)
    if load_i64(args, X_SCALE) != 0:
        x_scale = load_f32(load_pointer(args, X_SCALE), 0)
    x = carray(load_pointer(args, X), (n_tokens, d_model), np.float32)
    y = carray(load_pointer(args, Y), (n_tokens, d_model), np.float32)
    weight = carray(load_pointer(args, WEIGHT), d_model, np.float32)
    bias = carray(load_pointer(args, BIAS), d_model, np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        mean, squares = 0.0, 0.0  # the mean of a layer norm; an RMS norm subtracts none
        if kind == 1:
            for i in range(d_model):
                mean += np.float64(y[t, i]) / d_model
        for i in range(d_model):
            centred = np.float32(y[t, i] - mean)
            squares += np.float64(centred * centred)
        inverse = np.float32(1.0 / math.sqrt(squares / d_model + eps))
        for i in range(d_model):
            value = y[t, i]
            if kind >= 0:
                value = np.float32(y[t, i] - mean) * inverse * weight[i]
                if has_bias:
                    value += bias[i]
            x[t, i] = (x[t, i] + scale * value) * x_scale
