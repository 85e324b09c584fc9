"""rope_table and rope in Numba, one token per item: as cpp.cpp, in 16 lanes.

Products and sums are rounded one by one, as in the reference: no fused multiply-add.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    at,
    inline,
    load_f32,
    load_f64,
    load_i32,
    load_i64,
    load_pointer,
    paste,
    splat,
    store_f32,
    store_half,
)

# Byte offsets of the argument structs.
_N_TOKENS, _POSITIONS = 0, 8  # of both
_INV_FREQ, _TABLE_OUT, _HALF_DIM, _AMPLITUDE = range(16, 48, 8)
_SEQ_INDEX, _BLOCK_TABLES, _TABLE, _QKV, _K_CACHE, _V_CACHE = range(16, 64, 8)
_N_HEADS, _N_KV_HEADS, _HEAD_DIM, _ROTARY_DIM = range(64, 96, 8)
_BLOCK_SIZE, _MAX_BLOCKS, _VALUE_STRIDE = range(96, 120, 8)
_TEMPERATURE, _TEMPERATURE_LENGTH = 120, 128


def rope_table_f32(args: Any, part: int, n_parts: int) -> None:
    """out (n_tokens, 2, half_dim).  The angle is a float32 product, as the models were trained."""
    n_tokens, half = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _HALF_DIM)
    positions, inv_freq = load_pointer(args, _POSITIONS), load_pointer(args, _INV_FREQ)
    amplitude = load_f64(args, _AMPLITUDE)
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        cosine = at(load_pointer(args, _TABLE_OUT), 8 * t * half)
        for i in range(half):
            angle = np.float64(np.float32(load_i32(positions, 4 * t)) * load_f32(inv_freq, 4 * i))
            store_f32(cosine, 4 * i, amplitude * math.cos(angle))
            store_f32(cosine, 4 * (half + i), amplitude * math.sin(angle))


@inline
def _rotate(head: Any, cosine: Any, half: int) -> None:
    """Rotates the pairs (i, i + half) of a head in place; the sines follow the cosines."""
    for i in range(0, half, 16):
        n = half - i
        a, b = load_n(head, 4 * i, n), load_n(head, 4 * (i + half), n)
        c, s = load_n(cosine, 4 * i, n), load_n(cosine, 4 * (i + half), n)
        store_n(head, 4 * i, a * c - b * s, n)
        store_n(head, 4 * (i + half), b * c + a * s, n)


@inline
def _grow(args: Any, q: Any, position: Any, n: int) -> None:
    """The n values of a token's queries grow with its position."""
    steps = np.float64(1 + position // load_i64(args, _TEMPERATURE_LENGTH))
    growth = splat(np.float32(1.0 + load_f64(args, _TEMPERATURE) * math.log(steps)))
    for i in range(0, n, 16):
        store_n(q, 4 * i, load_n(q, 4 * i, n - i) * growth, n - i)


@paste
def _rope(args: Any, part: int, n_parts: int, cell_bytes: int, put: Any) -> None:
    n_tokens, head_dim = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _HEAD_DIM)
    n_heads, n_kv_heads = load_i64(args, _N_HEADS), load_i64(args, _N_KV_HEADS)
    block_size, stride = load_i64(args, _BLOCK_SIZE), load_i64(args, _VALUE_STRIDE)
    half = load_i64(args, _ROTARY_DIM) // 2
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        q = at(load_pointer(args, _QKV), 4 * t * (n_heads + 2 * n_kv_heads) * head_dim)
        cosine = at(load_pointer(args, _TABLE), 8 * t * half)
        for h in range(n_heads + n_kv_heads):
            _rotate(at(q, 4 * h * head_dim), cosine, half)
        position = np.int64(load_i32(load_pointer(args, _POSITIONS), 4 * t))
        if load_f64(args, _TEMPERATURE) > 0:
            _grow(args, q, position, n_heads * head_dim)
        seq = np.int64(load_i32(load_pointer(args, _SEQ_INDEX), 4 * t))
        entry = seq * load_i64(args, _MAX_BLOCKS) + position // block_size
        block = np.int64(load_i32(load_pointer(args, _BLOCK_TABLES), 4 * entry))
        slot = position % block_size
        for h in range(n_kv_heads):
            k = at(q, 4 * (n_heads + h) * head_dim)
            v = at(k, 4 * n_kv_heads * head_dim)
            cell = block * n_kv_heads + h
            keys = (cell * head_dim * block_size + slot) * cell_bytes
            values = (cell * block_size + slot) * stride * cell_bytes
            for d in range(head_dim):
                key = keys + d * block_size * cell_bytes
                put(load_pointer(args, _K_CACHE), key, load_f32(k, 4 * d))
                put(load_pointer(args, _V_CACHE), values + d * cell_bytes, load_f32(v, 4 * d))


def rope_f32(args: Any, part: int, n_parts: int) -> None:
    _rope(args, part, n_parts, 4, store_f32)


def rope_f16(args: Any, part: int, n_parts: int) -> None:
    _rope(args, part, n_parts, 2, store_half)
