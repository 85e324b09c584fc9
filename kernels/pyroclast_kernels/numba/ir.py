"""The instructions behind numba/simd.py, as LLVM IR for 16 lanes (or, where noted, a scalar).

Everything is portable LLVM, but for one instruction: bytes are multiplied with AVX-512 VNNI where
the CPU that Numba compiles for (this one, or NUMBA_CPU_NAME) has it.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils
from numba.core.registry import cpu_target

ir = cgutils.ir  # llvmlite.ir, as Numba has it
_LANES = 16
_F32, _I32, _I16, _I8 = ir.FloatType(), ir.IntType(32), ir.IntType(16), ir.IntType(8)
F32X16, I32X16 = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)
I8X16 = ir.VectorType(_I8, _LANES)
I16X16 = ir.VectorType(_I16, _LANES)


def cpu_has(feature: str) -> bool:
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{feature}" in features.split(",")


def _is_x86() -> bool:
    triple = cpu_target.target_context.codegen().magic_tuple()[0]
    return bool(triple.startswith(("x86_64", "i686")))


HAS_AVX512 = cpu_has("avx512f")
_HAS_VNNI = cpu_has("avx512vnni")
# Without the instruction, LLVM would call a library function for each value.
_CONVERTS_HALF = cpu_has("f16c") or not _is_x86()


# ---- building blocks ----------------------------------------------------------------------------


def constant(type_: Any, value: float) -> Any:
    """A scalar constant, or one in all lanes."""
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [ir.Constant(type_.element, value)] * type_.count)
    return ir.Constant(type_, value)


def _like(scalar: Any, value: Any) -> Any:
    """The type `scalar` in the shape of `value`: one, or 16 lanes."""
    return ir.VectorType(scalar, _LANES) if isinstance(value.type, ir.VectorType) else scalar


def call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """A call of the LLVM intrinsic of that full name."""
    signature = ir.FunctionType(result, [value.type for value in values])
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, values)


def shuffle(builder: Any, vector: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_I32, len(lanes)), [ir.Constant(_I32, i) for i in lanes])
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def load(builder: Any, pointer: Any, offset: Any, type_: Any) -> Any:
    address = builder.bitcast(builder.gep(pointer, [offset]), type_.as_pointer())
    return builder.load(address, align=1)


def store(builder: Any, pointer: Any, offset: Any, value: Any) -> None:
    address = builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())
    builder.store(value, address, align=1)


def splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, _LANES)
    first = ir.Constant(vector, ir.Undefined)
    return shuffle(builder, builder.insert_element(first, value, constant(_I32, 0)), [0] * _LANES)


# ---- floats -------------------------------------------------------------------------------------


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c: one rounding where the CPU has the instruction, two elsewhere."""
    return call(builder, "llvm.fmuladd.v16f32", F32X16, a, b, c)


def select_less(builder: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), yes, no)


def select_nan(builder: Any, x: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_unordered("uno", x, x), x, other)


def absolute(builder: Any, x: Any) -> Any:
    bits = builder.and_(builder.bitcast(x, I32X16), constant(I32X16, 0x7FFFFFFF))
    return builder.bitcast(bits, F32X16)


def times_power_of_two(builder: Any, x: Any, exponent: Any) -> Any:
    """x * 2^exponent in two factors: 2^128 has no float of its own."""
    half = builder.ashr(exponent, constant(I32X16, 1))
    for part in (half, builder.sub(exponent, half)):
        biased = builder.add(part, constant(I32X16, 127))
        power = builder.bitcast(builder.shl(biased, constant(I32X16, 23)), F32X16)
        x = builder.fmul(x, power)
    return x


def _reduce(builder: Any, x: Any, combine: Any) -> Any:
    half = _LANES // 2
    while half:
        low = shuffle(builder, x, list(range(half)))
        x = combine(low, shuffle(builder, x, list(range(half, 2 * half))))
        half //= 2
    return builder.extract_element(x, constant(_I32, 0))


def reduce_add(builder: Any, x: Any) -> Any:
    return _reduce(builder, x, builder.fadd)


def reduce_add_i32(builder: Any, x: Any) -> Any:
    return _reduce(builder, x, builder.add)


def reduce_max(builder: Any, x: Any) -> Any:
    return _reduce(builder, x, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


# ---- 16-bit floats, a scalar or 16 lanes --------------------------------------------------------


def half_to_float(builder: Any, bits: Any) -> Any:
    """float16 bits -> float32: the CPU's conversion, or the shifted bits times 2^112, which
    rebiases the exponent and gets denormals right too."""
    floats, ints = _like(_F32, bits), _like(_I32, bits)
    if _CONVERTS_HALF:
        return builder.fpext(builder.bitcast(bits, _like(ir.HalfType(), bits)), floats)
    wide = builder.zext(bits, ints)
    shifted = builder.shl(builder.and_(wide, constant(ints, 0x7FFF)), constant(ints, 13))
    scaled = builder.fmul(builder.bitcast(shifted, floats), constant(floats, 2.0**112))
    special = builder.icmp_unsigned(">=", shifted, constant(ints, 0x7C00 << 13))
    out = builder.select(
        special, builder.or_(shifted, constant(ints, 0x7F800000)), builder.bitcast(scaled, ints)
    )
    sign = builder.shl(builder.and_(wide, constant(ints, 0x8000)), constant(ints, 16))
    return builder.bitcast(builder.or_(out, sign), floats)


def float_to_half(builder: Any, value: Any) -> Any:
    """float32 -> float16 bits, to nearest even; beyond 65504 an infinity."""
    ints, shorts = _like(_I32, value), _like(_I16, value)
    if _CONVERTS_HALF:
        return builder.bitcast(builder.fptrunc(value, _like(ir.HalfType(), value)), shorts)
    signed = builder.bitcast(value, ints)
    bits = builder.and_(signed, constant(ints, 0x7FFFFFFF))
    # Denormal halves: adding 0.5 leaves the rounded value in the low bits.
    tiny = builder.fadd(builder.bitcast(bits, value.type), constant(value.type, 0.5))
    tiny = builder.sub(builder.bitcast(tiny, ints), constant(ints, 0x3F000000))
    odd = builder.and_(builder.lshr(bits, constant(ints, 13)), constant(ints, 1))
    rebias = constant(ints, 0xFFF - (112 << 23))
    usual = builder.lshr(builder.add(builder.add(bits, rebias), odd), constant(ints, 13))
    out = usual
    for test, limit, result in (
        ("<", 0x38800000, tiny),
        (">=", 0x477FF000, constant(ints, 0x7C00)),
        (">", 0x7F800000, constant(ints, 0x7E00)),  # NaN
    ):
        out = builder.select(builder.icmp_unsigned(test, bits, constant(ints, limit)), result, out)
    sign = builder.and_(builder.lshr(signed, constant(ints, 16)), constant(ints, 0x8000))
    return builder.trunc(builder.or_(out, sign), shorts)


def bfloat_to_float(builder: Any, bits: Any) -> Any:
    ints = _like(_I32, bits)
    return builder.bitcast(
        builder.shl(builder.zext(bits, ints), constant(ints, 16)), _like(_F32, bits)
    )


# ---- bytes --------------------------------------------------------------------------------------


def low_bytes(builder: Any, x: Any) -> Any:
    return builder.trunc(x, I8X16)


def level_squares(builder: Any, x: Any, factor: Any) -> Any:
    """Squares of the low byte, as a signed one, of (x * factor + 2^14) >> 15 (q8_blocks.py)."""
    scaled = builder.add(builder.mul(x, splat(builder, factor)), constant(I32X16, 1 << 14))
    at_level, high = builder.ashr(scaled, constant(I32X16, 15)), constant(I32X16, 24)
    rest = builder.ashr(builder.shl(at_level, high), high)
    return builder.mul(rest, rest)


def nibbles(builder: Any, x: Any, shift: int) -> Any:
    """The four low (shift 0) or high (shift 4) nibbles of each lane, as bytes."""
    return builder.and_(builder.lshr(x, constant(I32X16, shift)), constant(I32X16, 0x0F0F0F0F))


def look_up(builder: Any, table: tuple[int, ...], x: Any) -> Any:
    """The byte of a table of 16 that each byte 0..15 of x names."""
    bytes_ = ir.VectorType(_I8, 64)
    codes = builder.bitcast(x, bytes_)
    lookup = ir.Constant(bytes_, [value & 255 for value in table] * 4)
    if cpu_has("avx512bw"):
        found = call(builder, "llvm.x86.avx512.pshuf.b.512", bytes_, lookup, codes)
    elif cpu_has("avx2"):
        half = ir.VectorType(_I8, 32)
        sixteen = ir.Constant(half, [value & 255 for value in table] * 2)
        halves = [
            call(builder, "llvm.x86.avx2.pshuf.b", half, sixteen,
                 shuffle(builder, codes, list(range(first, first + 32))))
            for first in (0, 32)
        ]  # fmt: skip
        found = builder.shuffle_vector(
            *halves, ir.Constant(ir.VectorType(_I32, 64), list(range(64)))
        )
    else:
        found = constant(bytes_, 0)
        for code, value in enumerate(table):
            named = builder.icmp_unsigned("==", codes, constant(bytes_, code))
            found = builder.select(named, constant(bytes_, value & 255), found)
    return builder.bitcast(found, I32X16)


def dot_bytes(builder: Any, acc: Any, w: Any, x: Any) -> Any:
    """acc + the products of 4 unsigned bytes of each lane of w with the 4 signed bytes of x.

    Without VNNI the even and the odd bytes are widened to 16 bits and multiplied in pairs, a form
    that LLVM knows as one instruction (pmaddwd): a byte times a byte cannot overflow there.
    """
    broadcast = splat(builder, x)
    if _HAS_VNNI:
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", I32X16, acc, w, broadcast)
    shorts, ints = ir.VectorType(_I16, 32), ir.VectorType(_I32, 32)
    eight = constant(shorts, 8)
    w, x = builder.bitcast(w, shorts), builder.bitcast(broadcast, shorts)
    even = builder.and_(w, constant(shorts, 0xFF)), builder.ashr(builder.shl(x, eight), eight)
    odd = builder.lshr(w, eight), builder.ashr(x, eight)
    for a, b in (even, odd):
        products = builder.mul(builder.sext(a, ints), builder.sext(b, ints))
        pairs = [shuffle(builder, products, list(range(i, 32, 2))) for i in (0, 1)]
        acc = builder.add(acc, builder.add(*pairs))
    return acc
