"""delta_rule in Numba: as in cpp.cpp, items are tiles of 32 columns of a head of a sequence, and
one pass over a tile updates it for a token and reads it for the next."""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.numba.math import exp, load_n, sigmoid, softplus, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    load_pointer,
    splat,
    stack,
    store_f32x16,
)

# Byte offsets of the argument struct.
_N_SEQS, _SEQ_STARTS, _SLOTS_IN, _SLOTS_OUT, _QKV, _ALPHA, _BETA, _A, _DT_BIAS = range(0, 72, 8)
_STATE, _OUT, _N_K_HEADS, _N_V_HEADS, _K_DIM, _V_DIM, _GATE_STRIDE, _TILED = range(72, 136, 8)
_ROW = 128  # bytes of a tile's row


@inline
def _gates(args: Any, t: int, head: int) -> Any:
    """(the decay of the state, the step towards v), each in all lanes."""
    place = 4 * (t * load_i64(args, _GATE_STRIDE) + head)
    alpha = splat(load_f32(load_pointer(args, _ALPHA), place))
    dt = softplus(alpha + splat(load_f32(load_pointer(args, _DT_BIAS), 4 * head)))
    decay = exp(splat(load_f32(load_pointer(args, _A), 4 * head)) * dt)
    return decay, sigmoid(splat(load_f32(load_pointer(args, _BETA), place)))


@inline
def _key_sums(tile: Any, k: Any, k_dim: int) -> Any:
    low, high = splat(0.0), splat(0.0)
    for i in range(k_dim):
        key = splat(load_f32(k, 4 * i))
        low = fma(key, load_f32x16(tile, _ROW * i), low)
        high = fma(key, load_f32x16(tile, _ROW * i + 64), high)
    return low, high


@inline
def _update(
    source: Any, tile: Any, k_dim: int, q: Any, k: Any, next_k: Any, decay: Any, delta: Any
) -> None:
    """tile = decay * source + k delta.  What the token and the next one read of it is left in
    `delta`: q tile, then next_k tile."""
    d_low, d_high = load_f32x16(delta, 0), load_f32x16(delta, 64)
    out_low, out_high = splat(0.0), splat(0.0)
    next_low, next_high = splat(0.0), splat(0.0)
    for i in range(k_dim):
        key = splat(load_f32(k, 4 * i))
        low = fma(key, d_low, decay * load_f32x16(source, _ROW * i))
        high = fma(key, d_high, decay * load_f32x16(source, _ROW * i + 64))
        store_f32x16(tile, _ROW * i, low)
        store_f32x16(tile, _ROW * i + 64, high)
        query, after = splat(load_f32(q, 4 * i)), splat(load_f32(next_k, 4 * i))
        out_low, out_high = fma(query, low, out_low), fma(query, high, out_high)
        next_low, next_high = fma(after, low, next_low), fma(after, high, next_high)
    store_f32x16(delta, 0, out_low)
    store_f32x16(delta, 64, out_high)
    store_f32x16(delta, 128, next_low)
    store_f32x16(delta, 192, next_high)


@inline
def _tile(args: Any, slot: int, head: int, tile: int) -> Any:
    n_tiles, n_v_heads = (load_i64(args, _V_DIM) + 31) // 32, load_i64(args, _N_V_HEADS)
    place = ((slot * n_v_heads + head) * n_tiles + tile) * load_i64(args, _K_DIM)
    return at(load_pointer(args, _STATE), _ROW * place)


@inline
def _kept_tile(args: Any, t: int, end: int, head: int, tile: int) -> Any:
    """The tile of the first token from t on that keeps its state."""
    slots = load_pointer(args, _SLOTS_OUT)
    while t < end - 1 and load_i32(slots, 4 * t) < 0:
        t += 1
    return _tile(args, int(load_i32(slots, 4 * t)), head, tile)


@inline
def _run(args: Any, seq: int, head: int, tile: int, begin: int, end: int) -> None:
    n_k_heads, n_v_heads = load_i64(args, _N_K_HEADS), load_i64(args, _N_V_HEADS)
    k_dim, v_dim = load_i64(args, _K_DIM), load_i64(args, _V_DIM)
    k_head = head // (n_v_heads // n_k_heads)
    if load_i64(args, _TILED) != 0:
        k_head = head % n_k_heads
    key_columns, column = n_k_heads * k_dim, 32 * tile
    stride, n = 2 * key_columns + n_v_heads * v_dim, v_dim - column
    q = at(load_pointer(args, _QKV), 4 * (begin * stride + k_head * k_dim))
    v = at(load_pointer(args, _QKV), 4 * (begin * stride + 2 * key_columns + head * v_dim + column))
    out = at(load_pointer(args, _OUT), 4 * ((begin * n_v_heads + head) * v_dim + column))
    slot = int(load_i32(load_pointer(args, _SLOTS_IN), 4 * seq))
    target = _kept_tile(args, begin, end, head, tile)
    source = target
    if slot >= 0:
        source = _tile(args, slot, head, tile)
    else:
        for i in range(2 * k_dim):
            store_f32x16(target, 64 * i, splat(0.0))
    low, high = _key_sums(source, at(q, 4 * key_columns), k_dim)
    work = stack(256)
    for t in range(begin, end):
        decay, step = _gates(args, t, head)
        store_f32x16(work, 0, step * (load_n(v, 0, n) - decay * low))
        store_f32x16(work, 64, step * (load_n(v, 64, n - 16) - decay * high))
        k = at(q, 4 * key_columns)
        next_k = k if t + 1 == end else at(k, 4 * stride)
        _update(source, target, k_dim, q, k, next_k, decay, work)
        store_n(out, 0, load_f32x16(work, 0), n)
        store_n(out, 64, load_f32x16(work, 64), n - 16)
        low, high = load_f32x16(work, 128), load_f32x16(work, 192)
        q, v, out = at(q, 4 * stride), at(v, 4 * stride), at(out, 4 * n_v_heads * v_dim)
        source = target
        if t + 1 < end:
            target = _kept_tile(args, t + 1, end, head, tile)


def delta_rule_f32(args: Any, part: int, n_parts: int) -> None:
    n_v_heads, n_tiles = load_i64(args, _N_V_HEADS), (load_i64(args, _V_DIM) + 31) // 32
    starts = load_pointer(args, _SEQ_STARTS)
    n_items = load_i64(load_pointer(args, _N_SEQS), 0) * n_v_heads * n_tiles
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        seq, head = item // n_tiles // n_v_heads, item // n_tiles % n_v_heads
        begin, end = int(load_i32(starts, 4 * seq)), int(load_i32(starts, 4 * seq + 4))
        if begin < end:
            _run(args, seq, head, item % n_tiles, begin, end)
