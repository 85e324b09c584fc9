"""Tokens as integers of the same order, their weights, and the draw, in Triton.

A token's place in the order of falling value, rising id among equals, is one int64 that no other
token of the row has: the value's bits as an integer of the same order, times 2^20, plus 2^20 - 1 -
id.  So a cut is one such integer, exact to the token, and ties need no code of their own.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.sample.triton.memory import COMPLETION, MAX_VOCAB_SIZE, POSITION, SEED

NOWHERE = tl.constexpr(-(1 << 62))  # before every place
_IDS = tl.constexpr(MAX_VOCAB_SIZE)
_ID_BITS = tl.constexpr(20)
_SIGN = tl.constexpr(0x7FFFFFFF)
_TINY = tl.constexpr(1.1754943508222875e-38)
_LEAST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def ordered(x):
    """float32 -> int32 of the same order; -0 is 0."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & _SIGN)


@triton.jit
def place_of(x, ids):
    """int64: greater for what comes earlier in order of falling x, rising id among equals."""
    return ordered(x).to(tl.int64) * _IDS - ids + (_IDS - 1)


@triton.jit
def value_at(place):
    """The value of place_of, float32."""
    key = (place >> _ID_BITS).to(tl.int32)
    return (key ^ ((key >> 31) & _SIGN)).to(tl.float32, bitcast=True)


@triton.jit
def id_at(place):
    """The id of place_of, int64."""
    return (place & (_IDS - 1)) ^ (_IDS - 1)


@triton.jit
def is_within(x, ids, cut):
    """place_of(x, ids) >= cut, in fewer instructions."""
    value = value_at(cut)
    return (x > value) | ((x == value) & (ids <= id_at(cut)))


@triton.jit
def last_place(value):
    """The place of the last token with at least `value`, a float64 scalar; never one of -inf."""
    value = tl.maximum(value, _LEAST)
    near = value.to(tl.float32)
    key = ordered(near) + (near.to(tl.float64) < value).to(tl.int32)
    return key.to(tl.int64) * _IDS


@triton.jit
def inverse(temperature):
    """1 / temperature as a normal float32, so that it times -inf is -inf."""
    return tl.maximum((1.0 / temperature).to(tl.float32), _TINY)


@triton.jit
def weight(x, maximum, inverse_temperature):
    """float32 exp((x - maximum) / temperature); 0 for -inf."""
    return tl.exp((x - maximum) * inverse_temperature)


@triton.jit
def uniform(row):
    """The random number of a row in [0, 1), float64: Philox4x32-10; row points to int64 ROW."""
    seed = tl.load(row + SEED).to(tl.uint64, bitcast=True)
    position = tl.load(row + POSITION).to(tl.uint64, bitcast=True)
    completion = tl.load(row + COMPLETION).to(tl.uint64, bitcast=True)
    low = 0xFFFFFFFF
    c0, c1, c2, c3 = position & low, position >> 32, completion & low, completion >> 32
    k0, k1 = seed & low, seed >> 32
    for _ in tl.static_range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & low, (p0 >> 32) ^ c3 ^ k1, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return (((c0 << 32) | c1) >> 11).to(tl.int64).to(tl.float64) * (1.0 / (1 << 53))


@triton.jit
def first_beyond(weights, t, size: tl.constexpr):
    """(index at which the running sum of `weights`, float64 (size,), first exceeds t; the sum
    before it).  Where rounding keeps the sum below t, the last index with a weight."""
    index = tl.arange(0, size)
    running = tl.cumsum(weights, 0)
    found = tl.min(tl.where((weights > 0.0) & (running > t), index, size), 0)
    last = tl.max(tl.where(weights > 0.0, index, 0), 0)
    found = tl.where(found < size, found, last)
    return found, tl.sum(tl.where(index == found, running - weights, 0.0), 0)
