# $contract

import math

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer

OP = "rope"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    POSITIONS,
    SEQ_INDEX,
    BLOCK_TABLES,
    TABLE,
    QKV,
    K_CACHE,
    V_CACHE,
    N_HEADS,
    N_KV_HEADS,
    HEAD_DIM,
    ROTARY_DIM,
    BLOCK_SIZE,
    MAX_BLOCKS,
    VALUE_STRIDE,
    TEMPERATURE,
    TEMPERATURE_LENGTH,
) = range(0, 136, 8)


def rope_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    n_heads, n_kv_heads = load_i64(args, N_HEADS), load_i64(args, N_KV_HEADS)
    head_dim, block_size = load_i64(args, HEAD_DIM), load_i64(args, BLOCK_SIZE)
    max_blocks, stride = load_i64(args, MAX_BLOCKS), load_i64(args, VALUE_STRIDE)
    half, n_rotated = load_i64(args, ROTARY_DIM) // 2, n_heads + n_kv_heads
    temperature, length = load_f64(args, TEMPERATURE), load_i64(args, TEMPERATURE_LENGTH)
    positions = carray(load_pointer(args, POSITIONS), n_tokens, np.int32)
    seq_index = carray(load_pointer(args, SEQ_INDEX), n_tokens, np.int32)
    table = carray(load_pointer(args, TABLE), (n_tokens, 2, half), np.float32)
    shape = (n_tokens, n_rotated + n_kv_heads, head_dim)
    qkv = carray(load_pointer(args, QKV), shape, np.float32)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        for h in range(n_rotated):
            for i in range(half):
                a, b = qkv[t, h, i], qkv[t, h, i + half]
                cosine, sine = table[t, 0, i], table[t, 1, i]
                qkv[t, h, i] = a * cosine - b * sine
                qkv[t, h, i + half] = b * cosine + a * sine
        position, seq = positions[t], seq_index[t]
        if temperature > 0:
            growth = np.float32(1 + temperature * math.log(1 + position // length))
            for h in range(n_heads):
                for i in range(head_dim):
                    qkv[t, h, i] *= growth
        tables = carray(load_pointer(args, BLOCK_TABLES), (seq + 1, max_blocks), np.int32)
        block, slot = tables[seq, position // block_size], position % block_size
        keys = (block + 1, n_kv_heads, head_dim, block_size)
        k_cache = carray(load_pointer(args, K_CACHE), keys, np.float32)
        values = (block + 1, n_kv_heads, block_size, stride)
        v_cache = carray(load_pointer(args, V_CACHE), values, np.float32)
        for h in range(n_kv_heads):
            for i in range(head_dim):
                k_cache[block, h, i, slot] = qkv[t, n_heads + h, i]
                v_cache[block, h, slot, i] = qkv[t, n_rotated + h, i]
