"""ssm in Numba: as in cpp.cpp, items are tiles of 32 columns of a head of a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import (
    exp,
    load_n,
    maximum,
    minimum,
    softplus,
    split_begin,
    store_n,
)
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f32,
    load_f32x16,
    load_f64,
    load_i32,
    load_i64,
    load_pointer,
    splat,
    store_f32x16,
)

# Byte offsets of the argument struct.
_N_SEQS, _SEQ_STARTS, _SLOTS_IN, _SLOTS_OUT, _XBC, _DT, _A, _D, _DT_BIAS = range(0, 72, 8)
_STATE, _OUT, _N_HEADS, _HEAD_DIM, _N_GROUPS, _D_STATE, _DT_STRIDE = range(72, 128, 8)
_DT_MIN, _DT_MAX = 128, 136
_ROW = 128  # bytes of a tile's row


@inline
def _step(args: Any, t: int, head: int) -> Any:
    """The step of a head, in all lanes; a NaN passes both limits."""
    dt = load_f32(load_pointer(args, _DT), 4 * (t * load_i64(args, _DT_STRIDE) + head))
    step = softplus(splat(dt + load_f32(load_pointer(args, _DT_BIAS), 4 * head)))
    step = maximum(splat(np.float32(load_f64(args, _DT_MIN))), step)
    return minimum(splat(np.float32(load_f64(args, _DT_MAX))), step)


@inline
def _tile(args: Any, slot: int, head: int, tile: int) -> Any:
    n_tiles, n_heads = (load_i64(args, _HEAD_DIM) + 31) // 32, load_i64(args, _N_HEADS)
    place = ((slot * n_heads + head) * n_tiles + tile) * load_i64(args, _D_STATE)
    return at(load_pointer(args, _STATE), _ROW * place)


@inline
def _kept_tile(args: Any, t: int, end: int, head: int, tile: int) -> Any:
    """The tile of the first token from t on that keeps its state."""
    slots = load_pointer(args, _SLOTS_OUT)
    while t < end - 1 and load_i32(slots, 4 * t) < 0:
        t += 1
    return _tile(args, int(load_i32(slots, 4 * t)), head, tile)


@inline
def _update(source: Any, tile: Any, d_state: int, b: Any, c: Any, decay: Any, delta: Any) -> Any:
    """tile = decay * source + b delta; returns c tile."""
    d_low, d_high = delta
    out_low, out_high = splat(0.0), splat(0.0)
    for i in range(d_state):
        row = splat(load_f32(b, 4 * i))
        low = fma(row, d_low, decay * load_f32x16(source, _ROW * i))
        high = fma(row, d_high, decay * load_f32x16(source, _ROW * i + 64))
        store_f32x16(tile, _ROW * i, low)
        store_f32x16(tile, _ROW * i + 64, high)
        read = splat(load_f32(c, 4 * i))
        out_low, out_high = fma(read, low, out_low), fma(read, high, out_high)
    return out_low, out_high


@inline
def _run(args: Any, seq: int, head: int, tile: int, begin: int, end: int) -> None:
    n_heads, head_dim = load_i64(args, _N_HEADS), load_i64(args, _HEAD_DIM)
    n_groups, d_state = load_i64(args, _N_GROUPS), load_i64(args, _D_STATE)
    group, column = head // (n_heads // n_groups), 32 * tile
    x_columns, n = n_heads * head_dim, head_dim - column
    stride = x_columns + 2 * n_groups * d_state
    rate = splat(load_f32(load_pointer(args, _A), 4 * head))
    skip = splat(load_f32(load_pointer(args, _D), 4 * head))
    slot = int(load_i32(load_pointer(args, _SLOTS_IN), 4 * seq))
    target = _kept_tile(args, begin, end, head, tile)
    source = target
    if slot >= 0:
        source = _tile(args, slot, head, tile)
    else:
        for i in range(2 * d_state):
            store_f32x16(target, 64 * i, splat(0.0))
    for t in range(begin, end):
        row = at(load_pointer(args, _XBC), 4 * t * stride)
        x, b = at(row, 4 * (head * head_dim + column)), at(row, 4 * (x_columns + group * d_state))
        step, low, high = _step(args, t, head), load_n(x, 0, n), load_n(x, 64, n - 16)
        c, delta = at(b, 4 * n_groups * d_state), (step * low, step * high)
        y_low, y_high = _update(source, target, d_state, b, c, exp(rate * step), delta)
        out = at(load_pointer(args, _OUT), 4 * (t * x_columns + head * head_dim + column))
        store_n(out, 0, fma(skip, low, y_low), n)
        store_n(out, 64, fma(skip, high, y_high), n - 16)
        source = target
        if t + 1 < end:
            target = _kept_tile(args, t + 1, end, head, tile)


def ssm_f32(args: Any, part: int, n_parts: int) -> None:
    n_heads, n_tiles = load_i64(args, _N_HEADS), (load_i64(args, _HEAD_DIM) + 31) // 32
    starts = load_pointer(args, _SEQ_STARTS)
    n_items = load_i64(load_pointer(args, _N_SEQS), 0) * n_heads * n_tiles
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        seq, head = item // n_tiles // n_heads, item // n_tiles % n_heads
        begin, end = int(load_i32(starts, 4 * seq)), int(load_i32(starts, 4 * seq + 4))
        if begin < end:
            _run(args, seq, head, item % n_tiles, begin, end)
