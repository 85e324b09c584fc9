"""One step of a product with a block format, in Numba: a block of 32 columns of 16 rows is added to
an accumulator, or to a tile of them.
"""

from __future__ import annotations

from typing import Any

from pyroclast_kernels.matmul.numba.packed import block_group_bytes, find
from pyroclast_kernels.numba.simd import (
    at,
    dot_bytes,
    each,
    fma,
    inline,
    load_bfloatx16,
    load_f32,
    load_halfx16,
    load_i8x16,
    load_i32,
    load_u8x16,
    splat,
    splat_i32,
    to_float,
)

# A block of activations: scale, sum_scaled, then these, the last with 32 bytes, and two sums.
_MINUS_8_SUM, _MINUS_128_SUM, _VALUES, Q8_BYTES = 8, 12, 16, 64


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
def add_q8_0(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """acc + block x of token m: scale * (sum (w + 128) v - 128 sum v)."""
    header, block = scales
    xm = at(x, m * stride)
    total = _dot(splat_i32(load_i32(xm, _MINUS_128_SUM)), q, xm)
    return fma(total, load_halfx16(header, 32 * block) * splat(load_f32(xm, 0)), acc)


@inline
def add_q4_0(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with weights stored as w + 8."""
    header, block = scales
    xm = at(x, m * stride)
    total = _dot(splat_i32(load_i32(xm, _MINUS_8_SUM)), q, xm)
    return fma(total, load_halfx16(header, 32 * block) * splat(load_f32(xm, 0)), acc)


@inline
def add_q4_1(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with scale * w + minimum."""
    header, _ = scales
    xm = at(x, m * stride)
    total = _dot(splat_i32(0), q, xm)
    acc = fma(total, load_halfx16(header, 0) * splat(load_f32(xm, 0)), acc)
    return fma(load_halfx16(header, 32), splat(load_f32(xm, 4)), acc)


@inline
def add_q4_k(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with d * scale and -dmin * minimum, integers of 6 bits."""
    header, block = scales
    xm, small = at(x, m * stride), at(header, 64 + 16 * block)
    total = _dot(splat_i32(0), q, xm)
    scale = load_halfx16(header, 0) * load_u8x16(small, 0)
    minimum = load_halfx16(header, 32) * load_u8x16(small, 128)
    acc = fma(total, scale * splat(load_f32(xm, 0)), acc)
    return fma(minimum, splat(-load_f32(xm, 4)), acc)


@inline
def add_mxfp4(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with weights stored as w + 16, and a bfloat16 as scale."""
    header, block = scales
    xm = at(x, m * stride)
    total = _dot(splat_i32(2 * load_i32(xm, _MINUS_8_SUM)), q, xm)
    return fma(total, load_bfloatx16(header, 32 * block) * splat(load_f32(xm, 0)), acc)


@inline
def _super_scale(scales: Any) -> Any:
    """d times the signed scale of a block: two headers of 160 bytes."""
    header, block = scales
    header = at(header, 160 * (block // 8))
    return load_halfx16(header, 0) * load_i8x16(header, 32 + 16 * (block % 8))


@inline
def add_iq4_xs(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with d and a small scale, and weights stored as w + 128."""
    xm = at(x, m * stride)
    total = _dot(splat_i32(load_i32(xm, _MINUS_128_SUM)), q, xm)
    return fma(total, _super_scale(scales) * splat(load_f32(xm, 0)), acc)


@inline
def add_iq3_s(m: int, acc: Any, x: Any, stride: int, scales: Any, q: Any) -> Any:
    """The same with weights stored as w + 16."""
    xm = at(x, m * stride)
    total = _dot(splat_i32(2 * load_i32(xm, _MINUS_8_SUM)), q, xm)
    return fma(total, _super_scale(scales) * splat(load_f32(xm, 0)), acc)


@inline
def _block_group(g: int, acc: Any, x: Any, size: int, group: Any, b: int, format: Any) -> Any:
    """acc + block b of x, the only token, for the rows of group g."""
    layout, load_quants, token_step = format
    scales, quants = find(at(group, g * size), b, layout)
    return token_step(0, acc, x, 0, scales, load_quants(quants))


@inline
def block_tokens(acc: Any, group: Any, n_cols: int, x: Any, format: Any) -> Any:
    """A tile of tokens against one group of rows."""
    layout, load_quants, token_step = format
    n_blocks = n_cols // 32
    for b in range(n_blocks):
        scales, quants = find(group, b, layout)
        shared = (at(x, b * Q8_BYTES), n_blocks * Q8_BYTES, scales, load_quants(quants))
        acc = each(token_step, acc, shared)
    return acc


@inline
def block_groups(acc: Any, group: Any, n_cols: int, x: Any, format: Any) -> Any:
    """One token against as many groups as acc has."""
    size = block_group_bytes(n_cols, format[0])
    for b in range(n_cols // 32):
        acc = each(_block_group, acc, (at(x, b * Q8_BYTES), size, group, b, format))
    return acc
