"""matmul in Numba: the idea and the loops of matmul.cpp.  Steps of block formats are in blocks.py,
pack is in pack.py.

16 rows sit in the 16 lanes and an activation is broadcast to all of them.  A row's sum over k has
one order whatever the number of tokens: blocks of 32 columns from left to right, an exact integer
sum inside a block, one fused multiply-add of its scale.
Loop order: panel of row groups that fits L2 -> tile of tokens -> group -> block.
A tile is a tuple of accumulators, one for each token (or, for a single token, each of four groups).
"""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.matmul.numba.blocks import (
    Q8_BYTES,
    add_iq3_s,
    add_iq4_xs,
    add_mxfp4,
    add_q4_0,
    add_q4_1,
    add_q4_k,
    add_q8_0,
    block_groups,
    block_tokens,
)
from pyroclast_kernels.matmul.numba.pack import (
    pack_bf16,
    pack_f16,
    pack_f32,
    pack_iq3_s,
    pack_iq4_nl,
    pack_iq4_xs,
    pack_mxfp4,
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
    SUPER_OF_8,
    block_group_bytes,
    load_bytes,
    load_e2m1,
    load_nibbles,
    load_non_linear,
    load_odd_numbers,
    value_group_bytes,
)
from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    MAX_TILE,
    at,
    each,
    fma,
    inline,
    load_bfloatx16,
    load_f32,
    load_f32x16,
    load_halfx16,
    load_i64,
    load_pointer,
    paste,
    repeat,
    splat,
)

__all__ = [
    "pack_bf16",
    "pack_f16",
    "pack_f32",
    "pack_iq3_s",
    "pack_iq4_nl",
    "pack_iq4_xs",
    "pack_mxfp4",
    "pack_q4_0",
    "pack_q4_1",
    "pack_q4_k",
    "pack_q8_0",
]  # fmt: skip

# Byte offsets of the argument struct.
_N_TOKENS, _X, _WEIGHT, _BIAS, _OUT, _N_ROWS, _N_COLS, _OUT_STRIDE, _ACCUMULATE = range(0, 72, 8)
# As in C++: a panel is read once from memory, then from L2 for each further tile of tokens.
_PANEL_BYTES = 512 * 1024


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
    kind = (n_cols // 32 * Q8_BYTES, block_tokens, block_groups, format)
    _matmul(args, part, n_parts, size, kind)


@paste
def _value_matmul(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    kind = (4 * n_cols, _value_tokens, _value_groups, format)
    _matmul(args, part, n_parts, value_group_bytes(n_cols, format[0]), kind)


def matmul_q8_0(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q8_0, load_bytes, add_q8_0))


def matmul_q4_0(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_0, load_nibbles, add_q4_0))


def matmul_q4_1(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_1, load_nibbles, add_q4_1))


def matmul_q4_k(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_K, load_nibbles, add_q4_k))


def matmul_iq4_nl(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_0, load_non_linear, add_q8_0))


def matmul_iq4_xs(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (SUPER_OF_8, load_non_linear, add_iq4_xs))


def matmul_iq3_s(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (SUPER_OF_8, load_odd_numbers, add_iq3_s))


def matmul_mxfp4(args: Any, part: int, n_parts: int) -> None:
    _block_matmul(args, part, n_parts, (Q4_0, load_e2m1, add_mxfp4))


def matmul_f32(args: Any, part: int, n_parts: int) -> None:
    _value_matmul(args, part, n_parts, (4, load_f32x16))


def matmul_f16(args: Any, part: int, n_parts: int) -> None:
    _value_matmul(args, part, n_parts, (2, load_halfx16))


def matmul_bf16(args: Any, part: int, n_parts: int) -> None:
    _value_matmul(args, part, n_parts, (2, load_bfloatx16))
