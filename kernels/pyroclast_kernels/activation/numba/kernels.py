"""quantize and glu in Numba: as in C++, items are blocks of 32 columns of a token."""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.activation.numba.quantize import Q8_BYTES, quantize_block, quantize_row
from pyroclast_kernels.numba.math import exp, load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    absolute,
    at,
    fma,
    inline,
    load_i64,
    load_pointer,
    select_less,
    splat,
)

# Byte offsets of the argument structs.
_X, _X_Q8, _N_COLS = range(8, 32, 8)  # of quantize, after _N_TOKENS
_N_TOKENS, _GATE_UP, _OUT, _OUT_Q8, _D_FF, _ACTIVATION, _GATED = range(0, 56, 8)
_SILU, _GELU_TANH, _GELU, _RELU = range(4)  # of ACTIVATIONS


@inline
def _silu(g: Any) -> Any:
    return g / (splat(1.0) + exp(splat(0.0) - g))


@inline
def _gelu_tanh(g: Any) -> Any:
    """g (1 + tanh u) / 2 as g / (1 + e^-2u): see activation/cpp/gate.h, also for the error."""
    slope = fma(g * g, splat(-0.0713548162726), splat(-1.59576912161))
    return g / (splat(1.0) + exp(g * slope))


@inline
def _gelu(g: Any) -> Any:
    """g erfc(-g / sqrt 2) / 2; the polynomial of activation/cpp/gate.h, and its error."""
    y = absolute(g)
    t = splat(1.0) / fma(y, splat(0.35), splat(1.0))
    p = fma(splat(-0.029115023), t, splat(0.143818453))
    p = fma(p, t, splat(-0.255391061))
    p = fma(p, t, splat(0.158796638))
    p = fma(p, t, splat(-0.0228434708))
    p = fma(p, t, splat(0.105392166))
    p = fma(p, t, splat(0.119863085))
    p = fma(p, t, splat(0.13985756))
    p = fma(p, t, splat(0.13962166))
    tail = exp(splat(-0.5) * (y * y)) * (t * p)
    return g * select_less(g, splat(0.0), tail, splat(1.0) - tail)


@inline
def _relu(g: Any) -> Any:
    """-0 and NaN stay what they are."""
    return select_less(g, splat(0.0), splat(0.0), g)


@inline
def activate(activation: int, g: Any) -> Any:
    """The function of ACTIVATIONS of 16 values."""
    if activation == _SILU:
        return _silu(g)
    if activation == _GELU_TANH:
        return _gelu_tanh(g)
    if activation == _GELU:
        return _gelu(g)
    if activation == _RELU:
        return _relu(g)
    return _relu(g) * _relu(g)


@inline
def _activated(activation: int, gate: Any, up: Any, is_gated: bool, n: int) -> Any:
    """f(gate), times up where there is one, of n values."""
    y = activate(activation, load_n(gate, 0, n))
    if is_gated:
        y = y * load_n(up, 0, n)
    return y


def quantize_f32(args: Any, part: int, n_parts: int) -> None:
    n_items = load_i64(load_pointer(args, _N_TOKENS), 0) * (load_i64(args, _N_COLS) // 32)
    begin = split_begin(n_items, part, n_parts)
    n = split_begin(n_items, part + 1, n_parts) - begin
    x, out = load_pointer(args, _X), load_pointer(args, _X_Q8)
    quantize_row(at(x, 128 * begin), 32 * n, at(out, Q8_BYTES * begin))


def glu_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, d_ff = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _D_FF)
    gate_up, out = load_pointer(args, _GATE_UP), load_pointer(args, _OUT)
    out_q8, activation = load_pointer(args, _OUT_Q8), load_i64(args, _ACTIVATION)
    wants_values, wants_q8 = load_i64(args, _OUT) != 0, load_i64(args, _OUT_Q8) != 0
    is_gated = load_i64(args, _GATED) != 0
    stride = 2 * d_ff if is_gated else d_ff
    n_blocks = (d_ff + 31) // 32
    n_items = n_tokens * n_blocks
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        token, column = item // n_blocks, item % n_blocks * 32
        n = d_ff - column
        gate = at(gate_up, 4 * (token * stride + column))
        up = at(gate, 4 * d_ff)
        low = _activated(activation, gate, up, is_gated, n)
        high = _activated(activation, at(gate, 64), at(up, 64), is_gated, n - 16)
        if wants_values:
            row = at(out, 4 * (token * d_ff + column))
            store_n(row, 0, low, n)
            store_n(row, 64, high, n - 16)
        if wants_q8:
            quantize_block(low, high, at(out_q8, item * Q8_BYTES))
