# $contract

import math

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer

OP = "rope_table"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    POSITIONS,
    INV_FREQ,
    OUT,
    HALF_DIM,
    AMPLITUDE,
) = range(0, 48, 8)


def rope_table_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    half, amplitude = load_i64(args, HALF_DIM), load_f64(args, AMPLITUDE)
    positions = carray(load_pointer(args, POSITIONS), n_tokens, np.int32)
    inv_freq = carray(load_pointer(args, INV_FREQ), half, np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, 2, half), np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        for i in range(half):
            angle = np.float64(np.float32(positions[t]) * inv_freq[i])
            out[t, 0, i] = amplitude * math.cos(angle)
            out[t, 1, i] = amplitude * math.sin(angle)
