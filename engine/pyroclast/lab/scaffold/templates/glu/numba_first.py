# $contract

import math

import numba
import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_i64, load_pointer, stack

OP = "glu"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    GATE_UP,
    OUT,
    OUT_Q8,
    D_FF,
    ACTIVATION,
    GATED,
) = range(0, 56, 8)


from pyroclast.lab.scaffold.templates.quantize_block import quantize_block


@numba.njit
def activated(activation, g):
    # In float64 no exponential of a float32 that matters overflows.
    if activation == 0:
        return g / (1 + math.exp(-g))
    if activation == 1:
        return g / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * g * (1 + 0.044715 * g * g)))
    if activation == 2:
        return g / 2 * math.erfc(-g * math.sqrt(0.5))
    positive = 0.0 if g < 0 else g
    return positive if activation == 3 else positive * positive


def glu_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    d_ff, activation = load_i64(args, D_FF), load_i64(args, ACTIVATION)
    gated = load_i64(args, GATED) != 0
    n_columns = 2 * d_ff if gated else d_ff
    gate_up = carray(load_pointer(args, GATE_UP), (n_tokens, n_columns), np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, d_ff), np.float32)
    has_out, has_q8 = load_i64(args, OUT) != 0, load_i64(args, OUT_Q8) != 0
    y = carray(stack(128), 32, np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        for i in range(d_ff):
            gate = gate_up[t, i]
            y[i % 32] = np.float32(activated(activation, np.float64(gate)))
            if gated:
                y[i % 32] *= gate_up[t, d_ff + i]
            if has_out:
                out[t, i] = y[i % 32]
            if has_q8 and i % 32 == 31:
                quantize_block(y, load_pointer(args, OUT_Q8), (t * d_ff + i) // 32)
