"""Activations to 8 bits, 32 at a time, in Triton: what norm, glu, attention and quantize end in.

The values, scales and sums of activations.quantize, bit for bit: divisions are rounded correctly,
and nothing here can be contracted to a fused multiply-add.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.q8_blocks import LEVELS, MOST_INVERSE

# A float32 within +-2^22, plus this, has no bits left behind the point and is rounded to nearest
# even on the way.  Triton's own rounding is not in its interpreter.
_NO_FRACTION = tl.constexpr(12582912.0)  # 1.5 * 2^23
_SMALLEST = tl.constexpr(3.75e-37)  # that 127 can be divided by in float32
_MOST_INVERSE = tl.constexpr(MOST_INVERSE)
# The levels are odd neighbours: 127 - 2 i.  A kernel reads no tuple, so they are computed there.
_FIRST, _N_LEVELS = tl.constexpr(LEVELS[0]), tl.constexpr(len(LEVELS))


@triton.jit
def _word(x):
    """float32 or int32 as int32 with a last axis of 1."""
    return tl.expand_dims(x.to(tl.int32, bitcast=True), -1)


@triton.jit
def _four(a, b, c, d):
    """Four numbers a block as int32 (..., 4): 16 bytes side by side, one store of a thread."""
    i = tl.arange(0, 4)
    return tl.where(i < 2, tl.where(i == 0, a, b), tl.where(i == 2, c, d))


@triton.jit
def _rounded(x, most: tl.constexpr):
    """To the nearest whole number, ties to even, within +-most.

    No value passes `most` by more than a rounding; the limits keep the product that x is apart from
    the sum, with which it would become one instruction and be rounded once instead of twice.
    """
    limited = tl.minimum(tl.maximum(x, -most), most)
    return ((limited + _NO_FRACTION) - _NO_FRACTION).to(tl.int32)


@triton.jit
def _loss(words, level: tl.constexpr):
    """A sum below 2^20, the same in any order, in steps of the first level."""
    at_level = (words * (((level << 16) // _FIRST + 1) // 2) + 16384) >> 15
    rest = (at_level << 24) >> 24
    return tl.sum(rest * rest, axis=-1).to(tl.float32) * (_FIRST * _FIRST / (level * level))


@triton.jit
def _best_level(x, largest):
    """float32 (..., 32), largest magnitudes (...) -> levels (...), as q8_blocks.best_levels."""
    inverse = tl.minimum(tl.div_rn(127.0, tl.maximum(largest, _SMALLEST)), _MOST_INVERSE)
    words = _rounded(x * tl.expand_dims(inverse * 256.0, -1), 32767.0)
    level = tl.full(largest.shape, 127.0, tl.float32)
    least = _loss(words, _FIRST)
    for i in tl.static_range(1, _N_LEVELS):
        loss = _loss(words, _FIRST - 2 * i)
        level = tl.where(loss < least, 127.0 - 2 * i, level)
        least = tl.minimum(loss, least)
    return level


@triton.jit
def quantized(x):
    """float32 (..., 32) -> (int8 values of that shape as int32, float32 scales (...)).

    See q8_blocks.quantize; of a block with a NaN or an infinity the scale is NaN, and such a value
    0.  Blocks below 4e-37 may get smaller values.
    """
    finite = tl.abs(x) < float("inf")
    clean = tl.where(finite, x, 0.0)
    largest = tl.max(tl.abs(clean), axis=-1)
    level = _best_level(clean, largest)
    # Of a block whose maximum is below 4e-37 the inverse would be infinite.
    inverse = tl.div_rn(level, tl.maximum(largest, _SMALLEST))
    values = _rounded(clean * tl.expand_dims(inverse, -1), 127.0)
    poison = tl.where(tl.min(finite.to(tl.int32), axis=-1) == 1, 0.0, float("nan"))
    return values, tl.div_rn(largest, level) + poison


@triton.jit
def store_quantized(x, out, block, mask):
    """Writes float32 x (..., 32) as the Q8_BLOCKs of those numbers.

    out: pointer of any type to Q8_BLOCK 0, aligned to 16 bytes; block (...): int32 or int64;
    mask (...): which of them exist.
    """
    values, scale = quantized(x)
    first = tl.sum(tl.where(tl.arange(0, 32) < 16, values, 0), axis=-1)
    total = tl.sum(values, axis=-1)
    last = total - first
    head = _four(
        _word(scale), _word(scale * total.to(tl.float32)), _word(-8 * total), _word(-128 * total)
    )
    tail = _four(
        _word(scale * first.to(tl.float32)),
        _word(scale * last.to(tl.float32)),
        _word(-4 * first),
        _word(-4 * last),
    )
    words, bytes = out.to(tl.pointer_type(tl.int32)), out.to(tl.pointer_type(tl.int8))
    at, mask = tl.expand_dims(block, -1), tl.expand_dims(mask, -1)
    tl.store(words + 16 * at + tl.arange(0, 4), head, mask)
    tl.store(bytes + 64 * at + 16 + tl.arange(0, 32), values.to(tl.int8), mask)
    tl.store(words + 16 * at + 12 + tl.arange(0, 4), tail, mask)
