"""gated_norm and sigmoid_gate in Numba: as in cpp.cpp, items of the former are groups of a token,
of the latter blocks of 32 columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.activation.numba.quantize import Q8_BYTES, quantize_block
from pyroclast_kernels.gated_norm import KINDS
from pyroclast_kernels.numba.math import load_n, sigmoid, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f64,
    load_i64,
    load_pointer,
    reduce_add,
    splat,
)

# Byte offsets of the argument structs.
_N_TOKENS, _X, _GATE, _WEIGHT, _OUT, _OUT_Q8, _N_GROUPS, _WIDTH = range(0, 64, 8)
_GATE_STRIDE, _WEIGHT_STRIDE, _EPS, _KIND = range(64, 96, 8)
_S_OUT_Q8, _S_N_COLS, _S_GATE_STRIDE = range(24, 48, 8)
_GATE_FIRST = KINDS.index("gate_first")


@inline
def _gated(x: Any, gate: Any, i: int, n: int) -> Any:
    """x * silu(gate) of columns i .. i + 15; n columns are left."""
    g = load_n(gate, 4 * i, n)
    return load_n(x, 4 * i, n) * (g * sigmoid(g))


@inline
def _scale(x: Any, gate: Any, width: int, eps: float, gates_first: bool) -> Any:
    """What x * silu(gate) is multiplied by."""
    squares = splat(0.0)
    for i in range(0, width, 16):
        v = load_n(x, 4 * i, width - i)
        if gates_first:
            v = _gated(x, gate, i, width - i)
        squares = fma(v, v, squares)
    mean_square = reduce_add(squares) / np.float32(width)
    return splat(np.float32(1) / np.float32(math.sqrt(mean_square + np.float32(eps))))


def gated_norm_f32(args: Any, part: int, n_parts: int) -> None:
    n_groups, width = load_i64(args, _N_GROUPS), load_i64(args, _WIDTH)
    out, out_q8 = load_pointer(args, _OUT), load_pointer(args, _OUT_Q8)
    wants_values, wants_q8 = load_i64(args, _OUT) != 0, load_i64(args, _OUT_Q8) != 0
    gates_first = load_i64(args, _KIND) == _GATE_FIRST
    n_items = load_i64(load_pointer(args, _N_TOKENS), 0) * n_groups
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        t, group = item // n_groups, item % n_groups
        x = at(load_pointer(args, _X), 4 * item * width)
        gate_row = t * load_i64(args, _GATE_STRIDE) + group * width
        gate = at(load_pointer(args, _GATE), 4 * gate_row)
        weight = at(load_pointer(args, _WEIGHT), 4 * group * load_i64(args, _WEIGHT_STRIDE))
        scale = _scale(x, gate, width, load_f64(args, _EPS), gates_first)
        for i in range(0, width, 32):
            n, place = width - i, item * width + i
            low = _gated(x, gate, i, n) * scale * load_n(weight, 4 * i, n)
            high = splat(0.0)
            if n > 16:
                high = _gated(x, gate, i + 16, n - 16) * scale
                high = high * load_n(weight, 4 * i + 64, n - 16)
            if wants_values:
                store_n(out, 4 * place, low, n)
                store_n(out, 4 * place + 64, high, n - 16)
            if wants_q8:
                quantize_block(low, high, at(out_q8, place // 32 * Q8_BYTES))


@inline
def _sigmoid_gated(x: Any, gate: Any, i: int, n: int) -> Any:
    y = load_n(x, 4 * i, n) * sigmoid(load_n(gate, 4 * i, n))
    store_n(x, 4 * i, y, n)
    return y


def sigmoid_gate_f32(args: Any, part: int, n_parts: int) -> None:
    n_cols, out_q8 = load_i64(args, _S_N_COLS), load_pointer(args, _S_OUT_Q8)
    wants_q8 = load_i64(args, _S_OUT_Q8) != 0
    n_blocks = (n_cols + 31) // 32
    n_items = load_i64(load_pointer(args, _N_TOKENS), 0) * n_blocks
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        t, column = item // n_blocks, item % n_blocks * 32
        x = at(load_pointer(args, _X), 4 * (t * n_cols + column))
        gate_row = t * load_i64(args, _S_GATE_STRIDE) + column
        gate = at(load_pointer(args, _GATE), 4 * gate_row)
        low = _sigmoid_gated(x, gate, 0, n_cols - column)
        high = splat(0.0)
        if n_cols - column > 16:
            high = _sigmoid_gated(x, gate, 16, n_cols - column - 16)
        if wants_q8:
            quantize_block(low, high, at(out_q8, item * Q8_BYTES))
