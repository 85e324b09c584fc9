"""conv1d in Numba: as in cpp.cpp, with items of 32 channels of a sequence."""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.activation.numba.quantize import Q8_BYTES, quantize_block
from pyroclast_kernels.conv1d import KINDS
from pyroclast_kernels.numba.math import load_n, sigmoid, split_begin, store_n
from pyroclast_kernels.numba.simd import at, fma, inline, load_i32, load_i64, load_pointer, splat

# Byte offsets of the argument struct.
_N_SEQS, _SEQ_STARTS, _SLOTS_IN, _SLOTS_OUT, _X, _WEIGHT, _BIAS = range(0, 56, 8)
_STATE, _OUT, _OUT_Q8, _N_CHANNELS, _WIDTH, _X_STRIDE, _KIND = range(56, 112, 8)
_GATED = KINDS.index("gated")


@inline
def _input(args: Any, t: int, begin: int, slot: int, c: int) -> Any:
    """What the filter reads of token t, at channels c .. c + 15; slot: where the sequence that
    begins with token `begin` has its state."""
    n_channels = load_i64(args, _N_CHANNELS)
    n = n_channels - c
    if t < begin:
        n_rows = load_i64(args, _WIDTH) - 1
        if slot < 0:
            return splat(0.0)
        row = slot * n_rows + t - begin + n_rows
        return load_n(load_pointer(args, _STATE), 4 * (row * n_channels + c), n)
    x = at(load_pointer(args, _X), 4 * (t * load_i64(args, _X_STRIDE) + c))
    u = load_n(x, 0, n)
    if load_i64(args, _KIND) == _GATED:
        u = u * load_n(x, 8 * n_channels, n)
    return u


@inline
def _output(args: Any, t: int, begin: int, slot: int, c: int) -> Any:
    n_channels, width = load_i64(args, _N_CHANNELS), load_i64(args, _WIDTH)
    n, y = n_channels - c, splat(0.0)
    for i in range(width):
        weight = load_n(load_pointer(args, _WEIGHT), 4 * (i * n_channels + c), n)
        y = fma(weight, _input(args, t - width + 1 + i, begin, slot, c), y)
    if load_i64(args, _BIAS) != 0:
        y = y + load_n(load_pointer(args, _BIAS), 4 * c, n)
    if load_i64(args, _KIND) == _GATED:
        row = 4 * (t * load_i64(args, _X_STRIDE) + n_channels + c)
        return load_n(load_pointer(args, _X), row, n) * y
    return y * sigmoid(y)


@inline
def _keep(args: Any, t: int, begin: int, slot: int, c: int, end_c: int) -> None:
    """Writes the state after token t, rows upwards: one may come from above in the same slot."""
    n_channels, n_rows = load_i64(args, _N_CHANNELS), load_i64(args, _WIDTH) - 1
    target = int(load_i32(load_pointer(args, _SLOTS_OUT), 4 * t)) * n_rows
    for i in range(n_rows):
        for channel in range(c, end_c, 16):
            u = _input(args, t - n_rows + 1 + i, begin, slot, channel)
            place = 4 * ((target + i) * n_channels + channel)
            store_n(load_pointer(args, _STATE), place, u, n_channels - channel)


@inline
def _keep_states(args: Any, begin: int, end: int, slot: int, c: int, end_c: int) -> None:
    """The slot in which the sequence begins comes last, as the others are made of it."""
    own = -1
    for t in range(begin, end):
        target = int(load_i32(load_pointer(args, _SLOTS_OUT), 4 * t))
        if target == slot:
            own = t
        if target < 0 or target == slot:
            continue
        _keep(args, t, begin, slot, c, end_c)
    if slot >= 0 and own >= 0:
        _keep(args, own, begin, slot, c, end_c)


def conv1d_f32(args: Any, part: int, n_parts: int) -> None:
    n_channels = load_i64(args, _N_CHANNELS)
    out, out_q8 = load_pointer(args, _OUT), load_pointer(args, _OUT_Q8)
    wants_values, wants_q8 = load_i64(args, _OUT) != 0, load_i64(args, _OUT_Q8) != 0
    starts, runs = load_pointer(args, _SEQ_STARTS), (n_channels + 31) // 32
    n_items = load_i64(load_pointer(args, _N_SEQS), 0) * runs
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        seq, c = item // runs, item % runs * 32
        slot = int(load_i32(load_pointer(args, _SLOTS_IN), 4 * seq))
        begin, end = int(load_i32(starts, 4 * seq)), int(load_i32(starts, 4 * seq + 4))
        n = n_channels - c
        for t in range(begin, end):
            low, high = _output(args, t, begin, slot, c), splat(0.0)
            if n > 16:
                high = _output(args, t, begin, slot, c + 16)
            place = t * n_channels + c
            if wants_values:
                store_n(out, 4 * place, low, n)
                store_n(out, 4 * place + 64, high, n - 16)
            if wants_q8:
                quantize_block(low, high, at(out_q8, place // 32 * Q8_BYTES))
        _keep_states(args, begin, end, slot, c, min(c + 32, n_channels))
