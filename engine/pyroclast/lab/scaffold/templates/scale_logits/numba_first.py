# $contract

import math

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer

OP = "scale_logits"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    LOGITS,
    N_COLS,
    SCALE,
    SOFTCAP,
) = range(0, 40, 8)


def scale_logits_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    n_cols = load_i64(args, N_COLS)
    scale = np.float64(np.float32(load_f64(args, SCALE)))
    cap = np.float64(np.float32(load_f64(args, SOFTCAP)))
    logits = carray(load_pointer(args, LOGITS), (n_tokens, n_cols), np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        for i in range(n_cols):
            y = scale * logits[t, i]
            if cap > 0:
                y = cap * math.tanh(y / cap)
            logits[t, i] = np.float32(y)
