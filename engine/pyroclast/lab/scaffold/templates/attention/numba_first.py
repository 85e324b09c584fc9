# $contract

import math

import numba
import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_f64, load_i64, load_pointer, stack

OP = "attention"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    N_TOKENS,
    N_SEQS,
    SEQ_STARTS,
    POSITIONS,
    BLOCK_TABLES,
    QKV,
    K_CACHE,
    V_CACHE,
    OUT,
    OUT_Q8,
    SCRATCH,
    COUNTERS,
    N_HEADS,
    N_KV_HEADS,
    HEAD_DIM,
    BLOCK_SIZE,
    MAX_BLOCKS,
    VALUE_STRIDE,
    WINDOW,
    SCALE,
    SOFTCAP,
    SINKS,
    MAX_SPLITS,
    MAX_SPLIT_TOKENS,
) = range(0, 192, 8)


from pyroclast.lab.scaffold.templates.quantize_block import quantize_block


def attention_f32(args, part, n_parts):
    n_tokens = load_i64(load_pointer(args, N_TOKENS), 0)

    n_seqs = load_i64(load_pointer(args, N_SEQS), 0)
    n_heads, n_kv_heads = load_i64(args, N_HEADS), load_i64(args, N_KV_HEADS)
    head_dim, block_size = load_i64(args, HEAD_DIM), load_i64(args, BLOCK_SIZE)
    max_blocks, stride = load_i64(args, MAX_BLOCKS), load_i64(args, VALUE_STRIDE)
    window, group = load_i64(args, WINDOW), n_heads // n_kv_heads
    scale, softcap = load_f64(args, SCALE), load_f64(args, SOFTCAP)
    sinks = carray(load_pointer(args, SINKS), n_heads, np.float32)
    seq_starts = carray(load_pointer(args, SEQ_STARTS), n_seqs + 1, np.int32)
    positions = carray(load_pointer(args, POSITIONS), n_tokens, np.int32)
    tables = carray(load_pointer(args, BLOCK_TABLES), (n_seqs, max_blocks), np.int32)
    shape = (n_tokens, n_heads + 2 * n_kv_heads, head_dim)
    qkv = carray(load_pointer(args, QKV), shape, np.float32)
    out = carray(load_pointer(args, OUT), (n_tokens, n_heads, head_dim), np.float32)
    has_out, has_q8 = load_i64(args, OUT) != 0, load_i64(args, OUT_Q8) != 0
    y = carray(stack(2048), 512, np.float32)  # MAX_HEAD_DIM values
    n_items = n_tokens * n_heads
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        t, h = item // n_heads, item % n_heads
        s = 0
        while seq_starts[s + 1] <= t:
            s += 1
        end = np.int64(positions[t]) + 1
        first = max(0, end - window) if window > 0 else 0
        best, total = -math.inf, 0.0
        if load_i64(args, SINKS) != 0:  # a score without a value
            best, total = np.float64(sinks[h]), 1.0
        for i in range(head_dim):
            y[i] = 0
        for p in range(first, end):  # one pass: the sums are rescaled when the maximum rises
            block, slot = tables[s, p // block_size], p % block_size
            keys = (block + 1, n_kv_heads, head_dim, block_size)
            k = carray(load_pointer(args, K_CACHE), keys, np.float32)[block, h // group]
            values = (block + 1, n_kv_heads, block_size, stride)
            v = carray(load_pointer(args, V_CACHE), values, np.float32)[block, h // group, slot]
            score = 0.0
            for i in range(head_dim):
                score += np.float64(qkv[t, h, i]) * k[i, slot]
            score *= scale
            if softcap > 0:
                score = softcap * math.tanh(score / softcap)
            higher = max(best, score)
            shrink, w = math.exp(best - higher), math.exp(score - higher)
            best, total = higher, total * shrink + w
            for i in range(head_dim):
                y[i] = y[i] * shrink + w * v[i]
        for i in range(head_dim):
            y[i] /= total
            if has_out:
                out[t, h, i] = y[i]
        if has_q8:
            for i in range(0, head_dim, 32):
                block = (item * head_dim + i) // 32
                quantize_block(y[i:], load_pointer(args, OUT_Q8), block)
