"""Activations to 8 bits, 32 at a time, in Numba: the epilogue of norm, glu and attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import maximum, minimum, round_even
from pyroclast_kernels.numba.simd import (
    absolute,
    at,
    inline,
    load_f32x16,
    reduce_add,
    reduce_add_i32,
    reduce_max,
    splat,
    store_f32,
    store_i8x16,
    store_i32,
    to_int,
)

# A Q8Block of native/abi.h: scale, sum_scaled, two sums, 32 values, two scaled sums of a half,
# two integer ones.
Q8_BYTES = 64
_TOP, _ZERO = np.float32(127), np.float32(0)


@inline
def _to_bytes(x: Any) -> Any:
    """Whole numbers within +-127; the limits also catch NaN and infinities, whose conversion to an
    integer would be undefined."""
    return to_int(minimum(maximum(round_even(x), splat(-127.0)), splat(127.0)))


@inline
def quantize_block(a: Any, b: Any, out: Any) -> None:
    """values = round(x / scale) to nearest even, scale = max|x| / 127, of the 32 values in a and b.
    A NaN or an infinity makes the scale NaN, so that it reaches the logits and is noticed there."""
    poison = a * splat(0.0) + b * splat(0.0)  # 0, or NaN
    largest = reduce_max(maximum(absolute(a), absolute(b)))
    inverse = splat(_TOP / largest if largest > _ZERO else _ZERO)
    low, high = _to_bytes(a * inverse), _to_bytes(b * inverse)
    first, last = reduce_add_i32(low), reduce_add_i32(high)
    total = first + last
    scale = largest / _TOP + reduce_add(poison)
    store_f32(out, 0, scale)
    store_f32(out, 4, scale * np.float32(total))
    store_i32(out, 8, -8 * total)
    store_i32(out, 12, -128 * total)
    store_i8x16(out, 16, low)
    store_i8x16(out, 32, high)
    store_f32(out, 48, scale * np.float32(first))
    store_f32(out, 52, scale * np.float32(last))
    store_i32(out, 56, -4 * first)
    store_i32(out, 60, -4 * last)


@inline
def quantize_row(x: Any, n: int, out: Any) -> None:
    """n float32 values, a multiple of 32."""
    for i in range(0, n, 32):
        a, b = load_f32x16(x, 4 * i), load_f32x16(x, 4 * i + 64)
        quantize_block(a, b, at(out, i // 32 * Q8_BYTES))
