"""Bit masks of 16 lanes for Numba kernels: comparisons, blends, row tails and compressing stores.

A mask is an int64 whose bit i stands for lane i: what sample/cpp/lanes.h is to the C++ kernels.
Portable LLVM, which turns masks into mask registers where the CPU has them; only the compressing
store names instructions, because LLVM's own is a branch per lane below AVX-512 and microcode on
Zen 4.  Imports Numba, so only numba_kernels modules and their helpers import this one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.core.codegen import ll

from pyroclast_kernels.numba import ir as numba_ir
from pyroclast_kernels.numba.ir import F32X16, I32X16, call, constant, ir
from pyroclast_kernels.numba.simd import (
    F32x16,
    I32x16,
    define,
    inline,
    load_f32x16,
    load_u16,
    store_f32x16,
)

_LANES = 16
_I1, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 16, 32, 64))
_I1X16, _I8X16 = ir.VectorType(_I1, _LANES), ir.VectorType(ir.IntType(8), _LANES)
_POINTER, _INT, _MASK = types.voidptr, types.intp, types.int64
ALL_LANES = 0xFFFF


def _to_mask(builder: Any, lanes: Any) -> Any:
    return builder.zext(builder.bitcast(lanes, _I16), _I64)


def _to_lanes(builder: Any, mask: Any) -> Any:
    return builder.bitcast(builder.trunc(mask, _I16), _I1X16)


def _comparison(symbol: str) -> Any:
    def emit(builder: Any, a: Any, b: Any) -> Any:
        return _to_mask(builder, builder.fcmp_ordered(symbol, a, b))

    return define(emit, _MASK, F32x16, F32x16)


at_least, above, equal = _comparison(">="), _comparison(">"), _comparison("==")
equal_i32 = define(
    lambda builder, a, b: _to_mask(builder, builder.icmp_signed("==", a, b)), _MASK, I32x16, I32x16
)
# The lanes in which a or b is NaN.
unordered = define(
    lambda builder, a, b: _to_mask(builder, builder.fcmp_unordered("uno", a, b)),
    _MASK, F32x16, F32x16,
)  # fmt: skip
# a in the lanes of the mask, b in the others.
blend = define(
    lambda builder, mask, a, b: builder.select(_to_lanes(builder, mask), a, b),
    F32x16, _MASK, F32x16, F32x16,
)  # fmt: skip
# x where a >= b, else 0.
where_at_least = define(
    lambda builder, a, b, x: builder.select(
        builder.fcmp_ordered(">=", a, b), x, constant(F32X16, 0.0)
    ),
    F32x16, F32x16, F32x16, F32x16,
)  # fmt: skip
# Of an int64: how many bits are set; the place of the lowest, where one is.
count = define(lambda builder, mask: builder.ctpop(mask), types.int64, _MASK)
lowest_bit = define(lambda builder, mask: builder.cttz(mask, constant(_I1, 1)), types.int64, _MASK)


@inline
def lanes_below(n: int) -> int:
    """The mask of the first n lanes; none for n < 0, all for n > 16."""
    return (1 << min(max(n, 0), 16)) - 1


@inline
def lowest_bits(mask: int, n: int) -> int:
    """The n lowest of the bits that are set; at least n are."""
    rest = mask
    for _ in range(n):
        rest &= rest - 1
    return mask ^ rest


# ---- row tails ----------------------------------------------------------------------------------

# LLVM 14 and older name a pointer's type.
_POINTEE = "p0" if ll.llvm_version_info[0] > 14 else "p0v16f32"


def _address(builder: Any, pointer: Any, offset: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [offset]), F32X16.as_pointer())


def _load_lanes(builder: Any, pointer: Any, offset: Any, mask: Any, other: Any) -> Any:
    at, lanes = _address(builder, pointer, offset), _to_lanes(builder, mask)
    name = f"llvm.masked.load.v16f32.{_POINTEE}"
    return call(builder, name, F32X16, at, constant(_I32, 4), lanes, other)


def _store_lanes(builder: Any, pointer: Any, offset: Any, x: Any, mask: Any) -> None:
    at, lanes = _address(builder, pointer, offset), _to_lanes(builder, mask)
    name = f"llvm.masked.store.v16f32.{_POINTEE}"
    call(builder, name, ir.VoidType(), x, at, constant(_I32, 4), lanes)


# Floats from (pointer, byte offset) in the lanes of the mask, `other` in the rest, and back; what
# lies in memory beside those lanes is not touched.
load_lanes = define(_load_lanes, F32x16, _POINTER, _INT, _MASK, F32x16)
store_lanes = define(_store_lanes, types.void, _POINTER, _INT, F32x16, _MASK)


@inline
def load_row(p: Any, i: int, n: int, other: Any) -> Any:
    """Values i to i + 15 of a row of n floats; `other` (16 lanes) beyond its end."""
    if n - i >= 16:
        return load_f32x16(p, 4 * i)
    return load_lanes(p, 4 * i, lanes_below(n - i), other)


@inline
def store_row(p: Any, i: int, n: int, x: Any) -> None:
    if n - i >= 16:
        store_f32x16(p, 4 * i, x)
    else:
        store_lanes(p, 4 * i, x, lanes_below(n - i))


# ---- compressing stores -------------------------------------------------------------------------

_HAS_PERMUTE = numba_ir.cpu_has("avx2") and numba_ir.cpu_has("bmi2")


def _compress_wide(builder: Any, pointer: Any, offset: Any, x: Any, mask: Any) -> None:
    """To a register, then stored: compressing to memory takes over 100 cycles on Zen 4."""
    name, nothing = "llvm.x86.avx512.mask.compress.v16i32", ir.Constant(I32X16, None)
    close = call(builder, name, I32X16, x, nothing, _to_lanes(builder, mask))
    numba_ir.store(builder, pointer, offset, close)


def _compress_halves(builder: Any, pointer: Any, offset: Any, x: Any, mask: Any) -> None:
    """Eight lanes a time: their numbers, a byte each, are picked by the mask and permute them."""
    bytes_of_8, eight = ir.VectorType(ir.IntType(8), 8), ir.VectorType(_I32, 8)
    for first in (0, 8):
        half = builder.and_(builder.lshr(mask, constant(_I64, first)), constant(_I64, 0xFF))
        ones = constant(_I64, 0x0101010101010101)
        picked = call(builder, "llvm.x86.bmi.pdep.64", _I64, half, ones)
        picked = builder.mul(picked, constant(_I64, 0xFF))
        numbers = constant(_I64, 0x0706050403020100)
        order = call(builder, "llvm.x86.bmi.pext.64", _I64, numbers, picked)
        order = builder.zext(builder.bitcast(order, bytes_of_8), eight)
        lanes = numba_ir.shuffle(builder, x, list(range(first, first + 8)))
        close = call(builder, "llvm.x86.avx2.permd", eight, lanes, order)
        numba_ir.store(builder, pointer, offset, close)
        offset = builder.add(offset, builder.shl(builder.ctpop(half), constant(_I64, 2)))


def _compress_lanes(builder: Any, pointer: Any, offset: Any, x: Any, mask: Any) -> None:
    """One by one and without branches: each lane is overwritten by the next unless it is kept."""
    for lane in range(_LANES):
        numba_ir.store(builder, pointer, offset, builder.extract_element(x, constant(_I32, lane)))
        bit = builder.and_(builder.lshr(mask, constant(_I64, lane)), constant(_I64, 1))
        offset = builder.add(offset, builder.shl(bit, constant(_I64, 2)))


def _compress(builder: Any, pointer: Any, offset: Any, x: Any, mask: Any) -> None:
    x = builder.bitcast(x, I32X16)
    if numba_ir.HAS_AVX512:
        _compress_wide(builder, pointer, offset, x, mask)
    elif _HAS_PERMUTE:
        _compress_halves(builder, pointer, offset, x, mask)
    else:
        _compress_lanes(builder, pointer, offset, x, mask)


# Writes the lanes of the mask, close together, to (pointer, byte offset); up to 16 lanes from
# there on may be overwritten.
compress_f32 = define(_compress, types.void, _POINTER, _INT, F32x16, _MASK)
compress_i32 = define(_compress, types.void, _POINTER, _INT, I32x16, _MASK)


# ---- bits and integers --------------------------------------------------------------------------


def _lane_ids(builder: Any, first: Any) -> Any:
    lanes = ir.Constant(I32X16, [ir.Constant(_I32, i) for i in range(_LANES)])
    return builder.add(numba_ir.splat(builder, builder.trunc(first, _I32)), lanes)


lane_ids = define(_lane_ids, I32x16, types.int64)  # first, first + 1, ...


def _ordered(builder: Any, x: Any) -> Any:
    ints = I32X16 if isinstance(x.type, ir.VectorType) else _I32
    bits = builder.bitcast(builder.fadd(x, constant(x.type, 0.0)), ints)
    sign = builder.ashr(bits, constant(ints, 31))
    return builder.xor(bits, builder.and_(sign, constant(ints, 0x7FFFFFFF)))


# Float bits as integers of the same order.  Adding 0 makes the two zeros one.
ordered = define(_ordered, types.int32, types.float32)
ordered_lanes = define(_ordered, I32x16, F32x16)


def _keys_below(builder: Any, x: Any, key: Any, shift: Any) -> Any:
    keys = builder.sub(numba_ir.splat(builder, key), _ordered(builder, x))
    return builder.lshr(keys, numba_ir.splat(builder, shift))


# (key - ordered(x)) >> shift, without a sign.
keys_below = define(_keys_below, I32x16, F32x16, types.int32, types.int32)


# ---- powers of two ------------------------------------------------------------------------------

_AS_SET = 4  # the rounding mode in force


def _floor(builder: Any, x: Any) -> Any:
    return call(builder, "llvm.floor.v16f32", F32X16, x)


def _times_power_of_floor(builder: Any, x: Any, y: Any) -> Any:
    if numba_ir.HAS_AVX512:
        all_lanes, name = constant(_I16, -1), "llvm.x86.avx512.mask.scalef.ps.512"
        mode = constant(_I32, _AS_SET)
        return call(builder, name, F32X16, x, y, constant(F32X16, 0.0), all_lanes, mode)
    whole = builder.fptosi(_floor(builder, y), I32X16)
    bits = builder.shl(whole, constant(I32X16, 23))
    return builder.bitcast(builder.add(builder.bitcast(x, I32X16), bits), F32X16)


floor = define(_floor, F32x16, F32x16)
# x * 2^floor(y): one instruction with AVX-512, to the same bits as without as long as the result is
# a normal float.  (Its neighbour that gives y - floor(y) rounds down: other bits, so not used.)
times_power_of_floor = define(_times_power_of_floor, F32x16, F32x16, F32x16)


@inline
def bits_at(words: Any, i: int) -> Any:
    """Bits i to i + 15 of a bitmask of uint32 words, as a mask; i is a multiple of 16."""
    return np.int64(load_u16(words, i >> 3))
