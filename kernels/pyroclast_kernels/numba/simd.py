"""Sixteen lanes and raw memory for Numba kernels: what native/simd.h is to the C++ ones.

A kernel receives `void *args`; what it touches it reaches by pointer and byte offset, and computes
on in vectors of 16 lanes (F32x16, I32x16).  These are LLVM's own vector types, so the same code
becomes one 512-bit register, two of 256 bits, four of 128, or NEON, whatever the CPU has, and no
auto-vectorizer has to find it.  Nothing is reassociated: a result depends on the order written.

`each` unrolls: it applies a function to every vector of a tuple, at compile time.
Imports Numba, so only the numba_kernels modules import this one, when a kernel is first bound.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.core import cgutils, errors, types
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from pyroclast_kernels.numba import ir as numba_ir
from pyroclast_kernels.numba.ir import ir

F = TypeVar("F", bound=Callable[..., Any])
LANES = 16
# Registers for a tile of tokens: 32 of 512 bits, or 16 narrower ones.
WIDE = numba_ir.HAS_AVX512
MAX_TILE = 12 if WIDE else 4


def inline(function: F) -> F:
    """A helper that is compiled into its callers; constants passed to it are folded there."""
    options = {"forceinline": True, "error_model": "numpy"}
    # Nothing calls it from Python or C: without the wrappers it compiles in half the time.
    options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    compiled: F = njit(**options)(function)
    return compiled


def outline(function: F) -> F:
    """A helper that is compiled once, however many call it.  Its first statement is `apart()`, or
    LLVM may copy it into its callers all the same."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}
    options |= {"forceinline": False}  # or an inline caller would hand its own down
    compiled: F = njit(**options)(function)
    return compiled


def paste(function: F) -> F:
    """A helper whose Python is pasted into its callers before anything is compiled: for the loops
    around an inline helper, which would otherwise be optimized again at every level."""
    pasted: F = njit(inline="always", error_model="numpy")(function)
    return pasted


class Vector(types.Type):
    """Sixteen lanes of one scalar type."""

    def __init__(self, name: str, llvm: Any) -> None:
        super().__init__(name=name)
        self.llvm = llvm


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]  # untyped
    """A vector is held as LLVM's vector."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


F32x16 = Vector("F32x16", numba_ir.F32X16)
I32x16 = Vector("I32x16", numba_ir.I32X16)
_POINTER, _INT = types.voidptr, types.intp


def define(emit: Callable[..., Any], result: Any, *parameters: Any) -> Any:
    """An intrinsic of a fixed signature; emit(builder, *values) writes its instructions."""
    signature = result(*parameters)

    def codegen(context: Any, builder: Any, _: Any, values: Any) -> Any:
        out = emit(builder, *values)
        return context.get_dummy_value() if result == types.void else out

    def one(_typing: Any, a: Any) -> Any:  # noqa: ARG001  # Numba counts the parameters
        return signature, codegen

    def two(_typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
        return signature, codegen

    def three(_typing: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001
        return signature, codegen

    def four(_typing: Any, a: Any, b: Any, c: Any, d: Any) -> Any:  # noqa: ARG001
        return signature, codegen

    return intrinsic((one, two, three, four)[len(parameters) - 1])


# ---- memory -------------------------------------------------------------------------------------


def _loader(result: Any, stored: Any, convert: Callable[..., Any] | None = None) -> Any:
    def emit(builder: Any, pointer: Any, offset: Any) -> Any:
        value = numba_ir.load(builder, pointer, offset, stored)
        return convert(builder, value) if convert else value

    return define(emit, result, _POINTER, _INT)


def _storer(value_type: Any, convert: Callable[..., Any] | None = None) -> Any:
    def emit(builder: Any, pointer: Any, offset: Any, value: Any) -> None:
        numba_ir.store(builder, pointer, offset, convert(builder, value) if convert else value)

    return define(emit, types.void, _POINTER, _INT, value_type)


# Each takes (pointer, byte offset); no alignment is needed.
load_pointer = _loader(_POINTER, ir.IntType(8).as_pointer())
load_i64 = _loader(types.int64, ir.IntType(64))
load_f64 = _loader(types.float64, ir.DoubleType())
load_f32 = _loader(types.float32, ir.FloatType())
load_i32 = _loader(types.int32, ir.IntType(32))
load_u8 = _loader(types.uint8, ir.IntType(8))
load_u16 = _loader(types.uint16, ir.IntType(16))
load_half = _loader(types.float32, ir.IntType(16), numba_ir.half_to_float)
load_bfloat = _loader(types.float32, ir.IntType(16), numba_ir.bfloat_to_float)
load_f32x16 = _loader(F32x16, numba_ir.F32X16)
load_i32x16 = _loader(I32x16, numba_ir.I32X16)
load_halfx16 = _loader(F32x16, numba_ir.I16X16, numba_ir.half_to_float)
load_bfloatx16 = _loader(F32x16, numba_ir.I16X16, numba_ir.bfloat_to_float)
load_i8x16 = _loader(F32x16, numba_ir.I8X16, lambda builder, x: builder.sitofp(x, numba_ir.F32X16))
load_u8x16 = _loader(F32x16, numba_ir.I8X16, lambda builder, x: builder.uitofp(x, numba_ir.F32X16))
store_f32 = _storer(types.float32)
store_i32 = _storer(types.int32)
store_i64 = _storer(types.int64)
store_f64 = _storer(types.float64)
store_u8 = _storer(types.uint8)
store_u16 = _storer(types.uint16)
store_f32x16 = _storer(F32x16)
store_i32x16 = _storer(I32x16)
store_half = _storer(types.float32, numba_ir.float_to_half)
store_i8x16 = _storer(I32x16, numba_ir.low_bytes)  # the low byte of each lane
at = define(
    lambda builder, pointer, offset: builder.gep(pointer, [offset]), _POINTER, _POINTER, _INT
)


@intrinsic  # type: ignore[untyped-decorator]
def stack(_typing: Any, n_bytes: Any) -> Any:
    """A pointer to n_bytes (a constant) of this call's stack, aligned to 64, not cleared."""
    if not isinstance(n_bytes, types.IntegerLiteral):
        raise errors.RequireLiteralValue("stack() takes a constant number of bytes")

    def codegen(_context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        # Not cgutils.alloca_once, which clears: 80 KiB take LLVM minutes, and each call time.
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.IntType(8), n_bytes.literal_value))
        memory.align = 64
        return builder.bitcast(memory, ir.IntType(8).as_pointer())

    return _POINTER(n_bytes), codegen


@intrinsic  # type: ignore[untyped-decorator]
def apart(_typing: Any) -> Any:
    """Keeps the function that says it out of its callers: the sampler, whose stages call the same
    passes from many places, took 102 s to compile without and 14 s with it."""

    def codegen(context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


# ---- arithmetic ---------------------------------------------------------------------------------

splat = define(numba_ir.splat, F32x16, types.float32)
splat_i32 = define(numba_ir.splat, I32x16, types.int32)
fma = define(numba_ir.fma, F32x16, F32x16, F32x16, F32x16)  # a * b + c
# a < b ? c : d in each lane; false where a or b is NaN.
select_less = define(numba_ir.select_less, F32x16, F32x16, F32x16, F32x16, F32x16)
select_nan = define(numba_ir.select_nan, F32x16, F32x16, F32x16)  # a where a is NaN, else b
absolute = define(numba_ir.absolute, F32x16, F32x16)
to_float = define(lambda builder, x: builder.sitofp(x, numba_ir.F32X16), F32x16, I32x16)
to_int = define(lambda builder, x: builder.fptosi(x, numba_ir.I32X16), I32x16, F32x16)
times_power_of_two = define(numba_ir.times_power_of_two, F32x16, F32x16, I32x16)
# Sums and maximum over the lanes by one fixed tree: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
reduce_add = define(numba_ir.reduce_add, types.float32, F32x16)
reduce_add_i32 = define(numba_ir.reduce_add_i32, types.int32, I32x16)
reduce_max = define(numba_ir.reduce_max, types.float32, F32x16)
level_squares = define(numba_ir.level_squares, I32x16, I32x16, types.int32)
low_nibbles = define(lambda builder, x: numba_ir.nibbles(builder, x, 0), I32x16, I32x16)
high_nibbles = define(lambda builder, x: numba_ir.nibbles(builder, x, 4), I32x16, I32x16)


def look_up(table: tuple[int, ...]) -> Any:
    """A function of I32x16: the byte of the table of 16 that each byte 0..15 names."""
    return define(lambda builder, x: numba_ir.look_up(builder, table, x), I32x16, I32x16)


# acc + sum over 4 bytes of w * x: w 16 lanes of 4 unsigned bytes, x 4 signed bytes for all lanes.
dot_bytes = define(numba_ir.dot_bytes, I32x16, I32x16, I32x16, types.int32)


def define_operator(symbol: Callable[..., Any], emit: Callable[..., Any]) -> None:
    """a + b and the like for two F32x16."""

    def typing(_context: Any) -> Any:
        def resolve(a: Any, b: Any) -> Any:
            return F32x16 if a == F32x16 and b == F32x16 else None

        return resolve

    def lowering(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    type_callable(symbol)(typing)
    lower_builtin(symbol, F32x16, F32x16)(lowering)


define_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
define_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
define_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
define_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))


# ---- tuples of vectors --------------------------------------------------------------------------


@intrinsic  # type: ignore[untyped-decorator]
def repeat(_typing: Any, value: Any, n: Any) -> Any:
    """A tuple of n (a constant) copies of value."""
    if not isinstance(n, types.IntegerLiteral):
        raise errors.RequireLiteralValue("repeat() takes a constant count")
    result = UniTuple(value, n.literal_value)

    def codegen(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return context.make_tuple(builder, result, [values[0]] * n.literal_value)

    return result(value, n), codegen


@intrinsic  # type: ignore[untyped-decorator]
def each(typing: Any, step: Any, state: Any, shared: Any) -> Any:
    """(step(0, state[0], *shared), step(1, state[1], *shared), ...), one after the other."""
    arguments = (types.intp, state.dtype, *shared.types)
    call = typing.resolve_function_type(step, arguments, {})
    result = UniTuple(call.return_type, state.count)

    def codegen(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        _, vectors, rest = values
        function = context.get_function(step, call)
        rest = cgutils.unpack_tuple(builder, rest)
        out = []
        for i, vector in enumerate(cgutils.unpack_tuple(builder, vectors)):
            index = context.get_constant(types.intp, i)
            out.append(function(builder, (index, vector, *rest)))
        return context.make_tuple(builder, result, out)

    return result(step, state, shared), codegen
