"""matmul in Numba: the idea and the loops of matmul.cpp.  pack is in pack.py.

16 rows sit in the 16 lanes and an activation is broadcast to all of them.  A row's sum over k has
one order whatever the number of tokens: blocks of 32 columns from left to right, an exact integer
sum inside a block, one fused multiply-add of its scale.
Loop order: panel of row groups that fits L2 -> tile of tokens -> group -> block.
A tile is a tuple of accumulators, one for each token (or, for a single token, each of four groups).
"""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.matmul.numba.pack import (
    pack_bf16,
    pack_f16,
    pack_f32,
    pack_q4_0,
    pack_q4_1,
    pack_q4_k,
    pack_q8_0,
)
from pyroclast_kernels.matmul.numba.packed import (
    Q4_0,
    Q4_1,
    Q4_K,
    Q8_0,
    block_group_bytes,
    find,
    load_bytes,
    load_nibbles,
    value_group_bytes,
)
from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    MAX_TILE,
    at,
    dot_bytes,
    each,
    fma,
    inline,
    load_bfloatx16,
    load_f32,
    load_f32x16,
    load_halfx16,
    load_i32,
    load_i64,
    load_pointer,
    load_u8x16,
    paste,
    repeat,
    splat,
    splat_i32,
    to_float,
)

__all__ = [
    "pack_bf16", "pack_f16", "pack_f32", "pack_q4_0", "pack_q4_1", "pack_q4_k", "pack_q8_0",
]  # fmt: skip

# Byte offsets of the argument struct.
_N_TOKENS, _X, _WEIGHT, _BIAS, _OUT, _N_ROWS, _N_COLS, _OUT_STRIDE, _ACCUMULATE = range(0, 72, 8)
# A block of activations: scale, sum_scaled, then these, the last with 32 bytes, and two sums.
_MINUS_8_SUM, _MINUS_128_SUM, _VALUES, _Q8_BYTES = 8, 12, 16, 64
# As in C++: a panel is read once from memory, then from L2 for each further tile of tokens.
_PANEL_BYTES = 512 * 1024


# ---- block formats: one step adds a block of 32 columns to an accumulator -----------------------


@inline
def _dot(start: Any, q: Any, x: Any) -> Any:
    """start + the exact products of 16 rows with the 32 values of the activation block x."""
    s = dot_bytes(start, q[0], load_i32(x, _VALUES))
    s = dot_bytes(s, q[1], load_i32(x, _VALUES + 4))
    s = dot_bytes(s, q[2], load_i32(x, _VALUES + 8))
    s = dot_bytes(s, q[3], load_i32(x, _VALUES + 12))
    s = dot_bytes(s, q[4], load_i32(x, _VALUES + 16))
    s = dot_bytes(s, q[5], load_i32(x, _VALUES + 20))
    s = dot_bytes(s, q[6], load_i32(x, _VALUES + 24))
    return to_float(dot_bytes(s, q[7], load_i32(x, _VALUES + 28)))


@inline
def _q8_0_token(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """acc + block x of token m: scale * (sum (w + 128) v - 128 sum v)."""
    header, block = scales
    xm = at(x, m * stride)
    total = _dot(splat_i32(load_i32(xm, _MINUS_128_SUM)), q, xm)
    return fma(total, load_halfx16(header, 32 * block) * splat(load_f32(xm, 0)), acc)


@inline
def _q4_0_token(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with weights stored as w + 8."""
    header, block = scales
    xm = at(x, m * stride)
    total = _dot(splat_i32(load_i32(xm, _MINUS_8_SUM)), q, xm)
    return fma(total, load_halfx16(header, 32 * block) * splat(load_f32(xm, 0)), acc)


@inline
def _q4_1_token(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with scale * w + minimum."""
    header, _ = scales
    xm = at(x, m * stride)
    total = _dot(splat_i32(0), q, xm)
    acc = fma(total, load_halfx16(header, 0) * splat(load_f32(xm, 0)), acc)
    return fma(load_halfx16(header, 32), splat(load_f32(xm, 4)), acc)


@inline
def _q4_k_token(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with d * scale and -dmin * minimum, integers of 6 bits."""
    header, block = scales
    xm, small = at(x, m * stride), at(header, 64 + 16 * block)
    total = _dot(splat_i32(0), q, xm)
    scale = load_halfx16(header, 0) * load_u8x16(small, 0)
    minimum = load_halfx16(header, 32) * load_u8x16(small, 128)
    acc = fma(total, scale * splat(load_f32(xm, 0)), acc)
    return fma(minimum, splat(-load_f32(xm, 4)), acc)


@inline
def _block_group(g: int, acc: Any, x: Any, size: int, group: Any, b: int, format: Any) -> Any:
    """acc + block b of x, the only token, for the rows of group g."""
    layout, load_quants, token_step = format
    scales, quants = find(at(group, g * size), b, layout)
    return token_step(0, acc, x, 0, scales, load_quants(quants))


@inline
def _block_tokens(acc: Any, group: Any, n_cols: int, x: Any, format: Any) -> Any:
    """A tile of tokens against one group of rows."""
    layout, load_quants, token_step = format
    n_blocks = n_cols // 32
    for b in range(n_blocks):
        scales, quants = find(group, b, layout)
        shared = (at(x, b * _Q8_BYTES), n_blocks * _Q8_BYTES, scales, load_quants(quants))
        acc = each(token_step, acc, shared)
    return acc


@inline
def _block_groups(acc: Any, group: Any, n_cols: int, x: Any, format: Any) -> Any:
    """One token against as many groups as acc has."""
    size = block_group_bytes(n_cols, format[0])
    for b in range(n_cols // 32):
        acc = each(_block_group, acc, (at(x, b * _Q8_BYTES), size, group, b, format))
    return acc


# ---- plain values: one step adds one column -----------------------------------------------------


@inline
def _value_token(m: int, acc: Any, x: Any, stride: int, w: Any) -> Any:
    return fma(w, splat(load_f32(x, m * stride)), acc)


@inline
def _value_group(g: int, acc: Any, x: Any, column: Any, size: int, load_weights: Any) -> Any:
    return fma(load_weights(column, g * size), x, acc)


@inline
def _value_tokens(acc: Any, group: Any, n_cols: int, x: Any, format: Any) -> Any:
    value_bytes, load_weights = format
    for k in range(n_cols):
        w = load_weights(group, k * 16 * value_bytes)
        acc = each(_value_token, acc, (at(x, 4 * k), 4 * n_cols, w))
    return acc


@inline
def _value_groups(acc: Any, group: Any, n_cols: int, x: Any, format: Any) -> Any:
    value_bytes, load_weights = format
    size = value_group_bytes(n_cols, value_bytes)
    for k in range(n_cols):
        column = at(group, k * 16 * value_bytes)
        acc = each(_value_group, acc, (splat(load_f32(x, 4 * k)), column, size, load_weights))
    return acc


# ---- tiles, panels, parts -----------------------------------------------------------------------


@inline
def _store(
    i: int, acc: Any, args: Any, token: int, row: int, token_step: int, row_step: int
) -> Any:
    """Bias, accumulation and the store of accumulator i: a token's, or a group's."""
    token, row = token + i * token_step, row + i * row_step
    n = load_i64(args, _N_ROWS) - row
    out = at(load_pointer(args, _OUT), 4 * (token * load_i64(args, _OUT_STRIDE) + row))
    if load_i64(args, _BIAS) != 0:
        acc = acc + load_n(load_pointer(args, _BIAS), 4 * row, n)
    if load_i64(args, _ACCUMULATE) != 0:
        acc = load_n(out, 0, n) + acc
    store_n(out, 0, acc, n)
    return acc


@paste
def _panel(args: Any, begin: int, end: int, size: int, token: int, zeros: Any, kind: Any) -> None:
    """As many tokens as zeros has against the groups [begin, end)."""
    token_bytes, tokens_of, _, format = kind
    n_cols, weight = load_i64(args, _N_COLS), load_pointer(args, _WEIGHT)
    x = at(load_pointer(args, _X), token * token_bytes)
    for g in range(begin, end):
        acc = tokens_of(zeros, at(weight, g * size), n_cols, x, format)
        each(_store, acc, (args, token, 16 * g, 1, 0))


@paste
def _one_token(args: Any, begin: int, end: int, size: int, token: int, kind: Any) -> None:
    """One token: four groups in flight, since one multiply-add chain is bound by its latency."""
    token_bytes, _, groups_of, format = kind
    n_cols, weight = load_i64(args, _N_COLS), load_pointer(args, _WEIGHT)
    x = at(load_pointer(args, _X), token * token_bytes)
    zero = splat(0.0)
    g = begin
    while g + 4 <= end:
        acc4 = groups_of(repeat(zero, 4), at(weight, g * size), n_cols, x, format)
        each(_store, acc4, (args, token, 16 * g, 0, 16))
        g += 4
    while g < end:
        acc1 = groups_of(repeat(zero, 1), at(weight, g * size), n_cols, x, format)
        each(_store, acc1, (args, token, 16 * g, 0, 16))
        g += 1


@paste
def _matmul(args: Any, part: int, n_parts: int, size: int, kind: Any) -> None:
    n_tokens = load_i64(load_pointer(args, _N_TOKENS), 0)
    n_groups = (load_i64(args, _N_ROWS) + 15) // 16
    end = split_begin(n_groups, part + 1, n_parts)
    panel_groups = max(1, _PANEL_BYTES // size)
    zero = splat(0.0)
    for g in range(split_begin(n_groups, part, n_parts), end, panel_groups):
        stop = min(g + panel_groups, end)
        token = 0
        while token < n_tokens:
            n = n_tokens - token
            if MAX_TILE >= 12 and n >= 12:
                _panel(args, g, stop, size, token, repeat(zero, 12), kind)
                token += 12
            elif MAX_TILE >= 8 and n >= 8:
                _panel(args, g, stop, size, token, repeat(zero, 8), kind)
                token += 8
            elif n >= 4:
                _panel(args, g, stop, size, token, repeat(zero, 4), kind)
                token += 4
            elif n >= 2:
                _panel(args, g, stop, size, token, repeat(zero, 2), kind)
                token += 2
            else:
                _one_token(args, g, stop, size, token, kind)
                token += 1


@paste
def _block_matmul(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = block_group_bytes(n_cols, format[0])
    kind = (n_cols // 32 * _Q8_BYTES, _block_tokens, _block_groups, format)
    _matmul(args, part, n_parts, size, kind)


@paste
def _value_matmul(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    kind = (4 * n_cols, _value_tokens, _value_groups, format)
    _matmul(args, part, n_parts, value_group_bytes(n_cols, format[0]), kind)


def matmul_q8_0(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q8_0, load_bytes, _q8_0_token))


def matmul_q4_0(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_0, load_nibbles, _q4_0_token))


def matmul_q4_1(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_1, load_nibbles, _q4_1_token))


def matmul_q4_k(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_K, load_nibbles, _q4_k_token))


def matmul_f32(args: Any, part: int, n_parts: int) -> None:
    _value_matmul(args, part, n_parts, (4, load_f32x16))


def matmul_f16(args: Any, part: int, n_parts: int) -> None:
    _value_matmul(args, part, n_parts, (2, load_halfx16))


def matmul_bf16(args: Any, part: int, n_parts: int) -> None:
    _value_matmul(args, part, n_parts, (2, load_bfloatx16))
