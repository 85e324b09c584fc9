# $contract

import math

import numba
import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_i64, load_pointer

OP = "quantize"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    X,
    OUT_Q8,
    N_COLS,
) = range(0, 32, 8)


from pyroclast.lab.scaffold.templates.quantize_block import quantize_block


def quantize_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    n_cols = load_i64(args, N_COLS)
    x = carray(load_pointer(args, X), (n_tokens, n_cols), np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        for i in range(0, n_cols, 32):
            quantize_block(x[t, i:], load_pointer(args, OUT_Q8), (t * n_cols + i) // 32)
