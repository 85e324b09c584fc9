"""Activations to 8 bits, 32 at a time, in Numba: the epilogue of norm, glu and attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import maximum, round_even
from pyroclast_kernels.numba.simd import (
    absolute,
    at,
    inline,
    level_squares,
    load_f32x16,
    reduce_add,
    reduce_add_i32,
    reduce_max,
    select_less,
    splat,
    store_f32,
    store_i8x16,
    store_i32,
    to_int,
)
from pyroclast_kernels.q8_blocks import LEVEL_FACTORS, LEVELS, LOSS_FACTORS, MOST_INVERSE

# A Q8Block of native/abi.h: scale, sum_scaled, two sums, 32 values, two scaled sums of a half,
# two integer ones.
Q8_BYTES = 64
_TOP, _ZERO = np.float32(LEVELS[0]), np.float32(0)
_MOST, _MOST_INVERSE = np.finfo(np.float32).max, np.float32(MOST_INVERSE)
_STEPS = np.float32(256)
# Of each level: itself, what turns steps of the first into its own, and squares of its own into
# those of the first.
_LEVELS = tuple(np.float32(level) for level in LEVELS)
_WORDS = tuple(np.int32(factor) for factor in LEVEL_FACTORS)
_LOSSES = tuple(np.float32(factor) for factor in LOSS_FACTORS)


@inline
def _finite_or_zero(x: Any) -> Any:
    return select_less(absolute(x), splat(np.inf), x, splat(0.0))


@inline
def _whole(x: Any) -> Any:
    """The nearest whole numbers of finite values below 2^22."""
    return to_int(round_even(x))


@inline
def _loss(a: Any, b: Any, factor: Any) -> Any:
    """A sum below 2^20: the same in any order."""
    squares = reduce_add_i32(level_squares(a, factor)) + reduce_add_i32(level_squares(b, factor))
    return np.float32(squares)


@inline
def _best_level(a: Any, b: Any, largest: Any) -> Any:
    """See pyroclast_kernels.q8_blocks.best_levels."""
    inverse = _TOP / largest if largest > _ZERO else _ZERO
    factor = splat((inverse if inverse < _MOST_INVERSE else _MOST_INVERSE) * _STEPS)
    x, y = _whole(a * factor), _whole(b * factor)
    level, least = _TOP, _loss(x, y, _WORDS[0])
    for i in range(1, len(_LEVELS)):
        loss = _loss(x, y, _WORDS[i]) * _LOSSES[i]
        if loss < least:
            level, least = _LEVELS[i], loss
    return level


@inline
def quantize_block(a: Any, b: Any, out: Any) -> None:
    """The 32 values in a and b: see pyroclast_kernels.q8_blocks.quantize.  A NaN or an infinity
    makes the scale NaN, so that it reaches the logits and is noticed there."""
    poison = a * splat(0.0) + b * splat(0.0)  # 0, or NaN
    a, b = _finite_or_zero(a), _finite_or_zero(b)
    largest = reduce_max(maximum(absolute(a), absolute(b)))
    level = _best_level(a, b, largest)
    quotient = level / largest if largest > _ZERO else _ZERO
    inverse = splat(quotient if quotient <= _MOST else _ZERO)
    low, high = _whole(a * inverse), _whole(b * inverse)
    first, last = reduce_add_i32(low), reduce_add_i32(high)
    total = first + last
    scale = largest / level + reduce_add(poison)
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
