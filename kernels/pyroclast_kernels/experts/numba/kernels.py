"""expert_gate_up and expert_down in Numba: the loops of experts/cpp/expert_products.h over
the tiles of tiles.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.activation.numba.kernels import activate
from pyroclast_kernels.activation.numba.quantize import quantize_block
from pyroclast_kernels.experts import EXPERT_ACTIVATIONS
from pyroclast_kernels.experts.numba.combine import combine_f32
from pyroclast_kernels.experts.numba.shares import BIAS, WEIGHT, run
from pyroclast_kernels.experts.numba.tiles import block_pairs, sums_of, value_pairs
from pyroclast_kernels.matmul.numba.blocks import (
    Q8_BYTES,
    add_iq3_s,
    add_iq4_xs,
    add_mxfp4,
    add_q4_0,
    add_q4_1,
    add_q4_k,
    add_q8_0,
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
from pyroclast_kernels.numba.math import exp, load_n, store_n
from pyroclast_kernels.numba.simd import (
    at,
    inline,
    load_bfloatx16,
    load_f32x16,
    load_f64,
    load_halfx16,
    load_i32,
    load_i64,
    load_pointer,
    paste,
    select_less,
    splat,
    stack,
    store_f32x16,
)

__all__ = ["combine_f32"]

# Byte offsets of the argument structs, from the results on.
_OUT, _OUT_Q8, _N_EXPERTS, _N_ACTIVE, _D_FF, _N_COLS = range(48, 96, 8)
_ACTIVATION, _GATED, _LIMIT, _UP_OFFSET = range(96, 128, 8)
_DOWN_N_EXPERTS, _DOWN_N_ACTIVE, _DOWN_N_ROWS, _DOWN_N_COLS = range(56, 88, 8)
_QUICK_GELU = EXPERT_ACTIVATIONS.index("quick_gelu")


@inline
def _at_most(x: Any, limit: Any) -> Any:
    """A NaN stays one."""
    return select_less(limit, x, limit, x)


@inline
def _gated(args: Any, gate: Any, up: Any) -> Any:
    """f(gate) * (up + up_offset) of clamped gate and up; without up, f(gate)."""
    limit = load_f64(args, _LIMIT)
    if limit > 0:
        top = splat(np.float32(limit))
        gate = _at_most(gate, top)
        up = splat(0.0) - _at_most(splat(0.0) - _at_most(up, top), top)
    activation = load_i64(args, _ACTIVATION)
    if activation == _QUICK_GELU:
        y = gate / (splat(1.0) + exp(splat(-1.702) * gate))
    else:
        y = activate(activation, gate)
    if load_i64(args, _GATED) != 0:
        y = y * (up + splat(np.float32(load_f64(args, _UP_OFFSET))))
    return y


@inline
def _activate_block(args: Any, expert: int, column: int, n: int, sums: Any, y: Any) -> None:
    """The sums of _gate_up_item -> the results of n pairs, 128 bytes apart in y."""
    d_ff, gated, bias = load_i64(args, _D_FF), load_i64(args, _GATED), load_pointer(args, BIAS)
    has_bias, of_gate = load_i64(args, BIAS) != 0, 4 * expert * (1 + gated) * d_ff
    for i in range(2 * n):
        half, m = i // n, i % n
        first = column + 16 * half
        gate = load_f32x16(sums, 1024 * half + 64 * m)
        up = load_f32x16(sums, 1024 * half + 512 + 64 * m)
        if has_bias:
            gate = gate + load_n(bias, of_gate + 4 * first, d_ff - first)
            if gated != 0:
                up = up + load_n(bias, of_gate + 4 * (d_ff + first), d_ff - first)
        store_f32x16(y, 128 * m + 64 * half, _gated(args, gate, up))


@inline
def _gate_up_item(
    args: Any, expert: int, i: int, pairs: Any, n: int, pointers: Any, kind: Any
) -> None:
    """n pairs by the 32 columns of block i of the result, or what d_ff leaves of them."""
    d_ff, n_cols, gated = load_i64(args, _D_FF), load_i64(args, _N_COLS), load_i64(args, _GATED)
    size, tiling = kind
    column, half_groups, weight = 32 * i, (d_ff + 15) // 16, load_pointer(args, WEIGHT)
    # Of each half of the block 512 bytes for the gate, then 512 for up.
    sums, y = stack(2048), stack(1024)
    n_halves = 2 if column + 16 < d_ff else 1
    for j in range(n_halves * (1 + gated)):
        half, part = j // (1 + gated), j % (1 + gated)
        group = (expert * (1 + gated) + part) * half_groups + 2 * i + half
        to = at(sums, 1024 * half + 512 * part)
        sums_of(at(weight, group * size), n_cols, pointers, n, to, tiling)
    _activate_block(args, expert, column, n, sums, y)
    out, out_q8 = load_pointer(args, _OUT), load_pointer(args, _OUT_Q8)
    for m in range(n):
        pair, low = int(load_i32(pairs, 4 * m)), load_f32x16(y, 128 * m)
        high = load_f32x16(y, 128 * m + 64)
        if load_i64(args, _OUT) != 0:
            row = at(out, 4 * (pair * d_ff + column))
            store_n(row, 0, low, d_ff - column)
            store_n(row, 64, high, d_ff - column - 16)
        if load_i64(args, _OUT_Q8) != 0:
            quantize_block(low, high, at(out_q8, Q8_BYTES * (pair * (d_ff // 32) + i)))


@inline
def _down_item(
    args: Any, expert: int, i: int, pairs: Any, n: int, pointers: Any, kind: Any
) -> None:
    """n pairs by group i of an expert's rows."""
    n_rows, n_cols = load_i64(args, _DOWN_N_ROWS), load_i64(args, _DOWN_N_COLS)
    size, tiling = kind
    n_groups, n_left, sums = (n_rows + 15) // 16, n_rows - 16 * i, stack(512)
    group = at(load_pointer(args, WEIGHT), (expert * n_groups + i) * size)
    sums_of(group, n_cols, pointers, n, sums, tiling)
    bias, has_bias = load_pointer(args, BIAS), load_i64(args, BIAS) != 0
    for m in range(n):
        y = load_f32x16(sums, 64 * m)
        if has_bias:
            y = y + load_n(bias, 4 * (expert * n_rows + 16 * i), n_left)
        row = int(load_i32(pairs, 4 * m)) * n_rows + 16 * i
        store_n(at(load_pointer(args, _OUT), 4 * row), 0, y, n_left)


@paste
def _gate_up(args: Any, part: int, n_parts: int, size: int, row_bytes: int, tiling: Any) -> None:
    n_items, n_parts_of_item = (load_i64(args, _D_FF) + 31) // 32, 2 + 2 * load_i64(args, _GATED)
    sizes = n_items, load_i64(args, _N_ACTIVE), row_bytes, n_parts_of_item * size
    run(args, part, n_parts, load_i64(args, _N_EXPERTS), sizes, ((size, tiling), _gate_up_item))


@paste
def _down(args: Any, part: int, n_parts: int, size: int, row_bytes: int, tiling: Any) -> None:
    sizes = (load_i64(args, _DOWN_N_ROWS) + 15) // 16, 1, row_bytes, size
    run(args, part, n_parts, load_i64(args, _DOWN_N_EXPERTS), sizes, ((size, tiling), _down_item))


@paste
def _block_gate_up(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    size = block_group_bytes(n_cols, format[0])
    _gate_up(args, part, n_parts, size, n_cols // 32 * Q8_BYTES, (format, block_pairs))


@paste
def _value_gate_up(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _N_COLS)
    _gate_up(
        args, part, n_parts, value_group_bytes(n_cols, format[0]), 4 * n_cols, (format, value_pairs)
    )


def expert_gate_up_q8_0(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (Q8_0, load_bytes, add_q8_0))


def expert_gate_up_q4_0(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (Q4_0, load_nibbles, add_q4_0))


def expert_gate_up_q4_1(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (Q4_1, load_nibbles, add_q4_1))


def expert_gate_up_q4_k(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (Q4_K, load_nibbles, add_q4_k))


def expert_gate_up_iq4_nl(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (Q4_0, load_non_linear, add_q8_0))


def expert_gate_up_iq4_xs(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (SUPER_OF_8, load_non_linear, add_iq4_xs))


def expert_gate_up_iq3_s(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (SUPER_OF_8, load_odd_numbers, add_iq3_s))


def expert_gate_up_mxfp4(args: Any, part: int, n_parts: int) -> None:
    _block_gate_up(args, part, n_parts, (Q4_0, load_e2m1, add_mxfp4))


def expert_gate_up_f32(args: Any, part: int, n_parts: int) -> None:
    _value_gate_up(args, part, n_parts, (4, load_f32x16))


def expert_gate_up_f16(args: Any, part: int, n_parts: int) -> None:
    _value_gate_up(args, part, n_parts, (2, load_halfx16))


def expert_gate_up_bf16(args: Any, part: int, n_parts: int) -> None:
    _value_gate_up(args, part, n_parts, (2, load_bfloatx16))


@paste
def _block_down(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _DOWN_N_COLS)
    size = block_group_bytes(n_cols, format[0])
    _down(args, part, n_parts, size, n_cols // 32 * Q8_BYTES, (format, block_pairs))


@paste
def _value_down(args: Any, part: int, n_parts: int, format: Any) -> None:
    n_cols = load_i64(args, _DOWN_N_COLS)
    _down(
        args, part, n_parts, value_group_bytes(n_cols, format[0]), 4 * n_cols, (format, value_pairs)
    )


def expert_down_q8_0(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (Q8_0, load_bytes, add_q8_0))


def expert_down_q4_0(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (Q4_0, load_nibbles, add_q4_0))


def expert_down_q4_1(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (Q4_1, load_nibbles, add_q4_1))


def expert_down_q4_k(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (Q4_K, load_nibbles, add_q4_k))


def expert_down_iq4_nl(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (Q4_0, load_non_linear, add_q8_0))


def expert_down_iq4_xs(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (SUPER_OF_8, load_non_linear, add_iq4_xs))


def expert_down_iq3_s(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (SUPER_OF_8, load_odd_numbers, add_iq3_s))


def expert_down_mxfp4(args: Any, part: int, n_parts: int) -> None:
    _block_down(args, part, n_parts, (Q4_0, load_e2m1, add_mxfp4))


def expert_down_f32(args: Any, part: int, n_parts: int) -> None:
    _value_down(args, part, n_parts, (4, load_f32x16))


def expert_down_f16(args: Any, part: int, n_parts: int) -> None:
    _value_down(args, part, n_parts, (2, load_halfx16))


def expert_down_bf16(args: Any, part: int, n_parts: int) -> None:
    _value_down(args, part, n_parts, (2, load_bfloatx16))
