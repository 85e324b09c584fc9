"""Functions of 16 lanes that the kernels share, in Numba: row tails, exponentials, rounding."""

from __future__ import annotations

import math
from typing import Any

from pyroclast_kernels.numba.simd import (
    absolute,
    fma,
    inline,
    load_f32,
    load_f32x16,
    select_less,
    select_nan,
    splat,
    stack,
    store_f32,
    store_f32x16,
    times_power_of_two,
    to_int,
)


@inline
def maximum(a: Any, b: Any) -> Any:
    """The larger of each lane; b where either is NaN, so callers test for NaN apart."""
    return select_less(b, a, a, b)


@inline
def minimum(a: Any, b: Any) -> Any:
    return select_less(a, b, a, b)


@inline
def load_n(p: Any, offset: int, n: int) -> Any:
    """The first n lanes of a row that may end inside the vector; the others are 0."""
    if n >= 16:
        return load_f32x16(p, offset)
    lanes = stack(64)
    store_f32x16(lanes, 0, splat(0.0))
    for i in range(n):
        store_f32(lanes, 4 * i, load_f32(p, offset + 4 * i))
    return load_f32x16(lanes, 0)


@inline
def store_n(p: Any, offset: int, x: Any, n: int) -> None:
    if n >= 16:
        store_f32x16(p, offset, x)
    else:
        lanes = stack(64)
        store_f32x16(lanes, 0, x)
        for i in range(n):
            store_f32(p, offset + 4 * i, load_f32(lanes, 4 * i))


@inline
def round_even(x: Any) -> Any:
    """The nearest integer, ties to even, of |x| < 2^22: the sum has no bits left for a fraction."""
    magic = splat(12582912.0)
    return (x + magic) - magic


@inline
def exp(x: Any) -> Any:
    """e^x: x = n ln2 + r, |r| <= ln2 / 2 (Cody and Waite 1980), a polynomial for e^r (Cephes expf),
    then the exponent bits.  At most 2 ulp in [-87.3, 88.7]; 0 below, inf above, NaN stays NaN."""
    low, high = splat(-87.33654), splat(88.72283)
    clamped = minimum(maximum(x, low), high)
    n = round_even(clamped * splat(1.44269504088896341))
    r = fma(n, splat(2.12194440e-4), fma(n, splat(-0.693359375), clamped))
    p = fma(splat(1.9875691500e-4), r, splat(1.3981999507e-3))
    p = fma(p, r, splat(8.3334519073e-3))
    p = fma(p, r, splat(4.1665795894e-2))
    p = fma(p, r, splat(1.6666665459e-1))
    p = fma(p, r, splat(5.0000001201e-1))
    p = fma(p, r * r, r) + splat(1.0)
    y = times_power_of_two(p, to_int(n))
    y = select_less(x, low, splat(0.0), y)
    y = select_less(high, x, splat(math.inf), y)
    return select_nan(x, y)


@inline
def tanh(x: Any) -> Any:
    """At most 3 ulp, NaN stays NaN; the method and the constants are those of native/tanh.h."""
    y, z = absolute(x), x * x
    p = fma(splat(-5.70498872745e-3), z, splat(2.06390887954e-2))
    p = fma(p, z, splat(-5.37397155531e-2))
    p = fma(p, z, splat(1.33314422036e-1))
    p = fma(p, z, splat(-3.33332819422e-1))
    near = fma(x * z, p, x)
    far = splat(1.0) - splat(2.0) / (exp(y + y) + splat(1.0))
    far = select_less(x, splat(0.0), splat(0.0) - far, far)
    return select_less(y, splat(0.625), near, far)


@inline
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), at most 4 ulp; NaN stays NaN."""
    return splat(1.0) / (splat(1.0) + exp(splat(0.0) - x))


@inline
def softplus(x: Any) -> Any:
    """ln(1 + e^x), at most 4 ulp, NaN stays NaN; the method is that of native/softplus.h."""
    y = exp(splat(0.0) - absolute(x))
    s = y / (splat(2.0) + y)
    z = s * s
    p = splat(1 / 13)
    p = fma(p, z, splat(1 / 11))
    p = fma(p, z, splat(1 / 9))
    p = fma(p, z, splat(1 / 7))
    p = fma(p, z, splat(1 / 5))
    p = fma(p, z, splat(1 / 3))
    p = fma(p, z, splat(1.0))
    return maximum(x, splat(0.0)) + (s + s) * p


@inline
def split_begin(n_items: int, part: int, n_parts: int) -> int:
    """The first of the items that a part handles; its end is the next part's beginning."""
    return n_items * part // n_parts
