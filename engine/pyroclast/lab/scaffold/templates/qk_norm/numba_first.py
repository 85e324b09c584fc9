# $contract

import math

import numpy as np
from numba import carray, njit

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer

OP = "qk_norm"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    QKV,
    Q_WEIGHT,
    K_WEIGHT,
    V_WEIGHT,
    N_HEADS,
    N_KV_HEADS,
    HEAD_DIM,
    EPS,
    WHOLE,
) = range(0, 80, 8)


@njit
def norm_in_place(row, begin, end, weight, eps):
    """Columns begin .. end of a token, as many of them at a time as there are weights."""
    width = len(weight)
    for first in range(begin, end, width):
        squares = 0.0
        for i in range(first, first + width):
            squares += np.float64(row[i] * row[i])
        scale = np.float32(1.0 / math.sqrt(squares / width + eps))
        for i in range(width):
            row[first + i] = row[first + i] * scale * weight[i]


def qk_norm_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    head_dim, eps, whole = load_i64(args, HEAD_DIM), load_f64(args, EPS), load_i64(args, WHOLE)
    q_dim, k_dim = load_i64(args, N_HEADS) * head_dim, load_i64(args, N_KV_HEADS) * head_dim
    qkv = carray(load_pointer(args, QKV), (n_tokens, q_dim + 2 * k_dim), np.float32)
    q_weight = carray(load_pointer(args, Q_WEIGHT), q_dim if whole else head_dim, np.float32)
    k_weight = carray(load_pointer(args, K_WEIGHT), k_dim if whole else head_dim, np.float32)
    v_weight = carray(load_pointer(args, V_WEIGHT), head_dim, np.float32)
    norms_values = load_i64(args, V_WEIGHT) != 0
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        norm_in_place(qkv[t], 0, q_dim, q_weight, eps)
        if k_dim > 0:
            norm_in_place(qkv[t], q_dim, q_dim + k_dim, k_weight, eps)
        if norms_values:
            norm_in_place(qkv[t], q_dim + k_dim, q_dim + 2 * k_dim, v_weight, eps)
