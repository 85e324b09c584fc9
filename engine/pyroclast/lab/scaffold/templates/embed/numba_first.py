# $contract

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer

OP = "embed"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    TOKEN_IDS,
    WEIGHT,
    OUT,
    N_COLS,
    SCALE,
    ACCUMULATE,
) = range(0, 56, 8)


def embed_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    n_cols, accumulate = load_i64(args, N_COLS), load_i64(args, ACCUMULATE)
    scale = np.float32(load_f64(args, SCALE))
    token_ids = carray(load_pointer(args, TOKEN_IDS), n_tokens, np.int32)
    out = carray(load_pointer(args, OUT), (n_tokens, n_cols), np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        group, lane = token_ids[t] // 16, token_ids[t] % 16
        shape = (group + 1, n_cols, 16)  # packed: 16 rows side by side (weights/packing.py)
        weight = carray(load_pointer(args, WEIGHT), shape, np.float32)
        for k in range(n_cols):
            value = scale * weight[group, k, lane]
            out[t, k] = out[t, k] + value if accumulate else value
