"""Checks a variant against the reference, case by case.

It checks the values, and what the C ABI promises: the same bits for any split into parts, any order
of the parts, any number of threads, and every run; no write to an input or beyond an array's ends.
Nothing is timed here and no crash is caught: a kernel that may crash belongs in a child process
(speed/worker.py).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from pyroclast.lab.check.inputs import SCRATCH, Arguments, Array, array_of, copy_of, guarded
from pyroclast_kernels import q8_blocks
from pyroclast_kernels.cases import Case, mismatches
from pyroclast_kernels.program import OpCall, Program, make_executor, pack_arguments
from pyroclast_kernels.q8_blocks import Q8_BLOCK
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.selection import Kernel, all_variants
from pyroclast_kernels.weights.packing import PackedWeight

N_PARTS = 6
_C_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)


@dataclass(frozen=True)
class Failure:
    """What is wrong with one case: the worst element of an output, or a broken promise."""

    case: str
    what: str

    def __str__(self) -> str:
        return f"{self.case}: {self.what}"


@dataclass(frozen=True)
class Accuracy:
    """The errors of the float outputs.  tolerance: the largest allowed error of any element;
    error_share: the largest error over what is allowed for that element."""

    max_abs_error: float
    nmse: float
    tolerance: float
    error_share: float


class Prepared:
    """A case with its reference result and bounds, computed once for all variants."""

    def __init__(self, case: Case) -> None:
        self.before = case.make()
        self.after = copy_of(self.before)
        with np.errstate(all="ignore"):
            get_op(case.op).reference(**self.after)
        self._bounds: dict[tuple[bool, str], Array | float] = {}
        self._case = case
        bound, rounded = (partial(self._bound, rounds) for rounds in (False, True))
        self.case = replace(case, bound=bound, rounded=rounded)

    def _bound(self, rounds: bool, before: Arguments, wanted: Array) -> Array | float:
        bound = self._case.allowed(rounds)
        name = next((name for name, value in self.after.items() if value is wanted), None)
        if name is None:  # a field of a record
            return bound(before, wanted)
        if (rounds, name) not in self._bounds:
            self._bounds[rounds, name] = bound(before, wanted)
        return self._bounds[rounds, name]

    def differences(self, got: Arguments, rounds: bool = False) -> list[str]:
        """The worst element of each output that is outside its bound, in words.  rounds: the
        variant's Variant.rounds."""
        return [str(m) for m in mismatches(self.case, self.before, self.after, got, rounds)]

    def accuracy(self, got: Arguments, rounds: bool = False) -> Accuracy:
        """Errors over all outputs.  A NaN where the reference has none is an infinite error."""
        errors = [np.zeros(0)]
        squares, share, tolerance = 0.0, 0.0, 0.0
        for name in self.case.outputs:
            if self.after[name] is None:
                continue
            wanted = _values(self.after[name])
            error = _errors(_values(got[name]), wanted)
            errors.append(error.ravel())
            finite = wanted[np.isfinite(wanted)]
            squares += float(np.sum(finite * finite))
            if not _has_bound(self.after[name]):
                continue
            allowed = np.asarray(self._bound(rounds, self.before, self.after[name]), np.float64)
            tolerance = max(tolerance, float(np.max(allowed, initial=0.0)))
            quotient = np.divide(error, allowed, out=np.zeros(error.shape), where=error > 0)
            share = max(share, float(np.max(quotient, initial=0.0)))
        flat = np.concatenate(errors)
        nmse = float(np.sum(flat * flat)) / squares if squares else float(flat.any())
        return Accuracy(float(np.max(flat, initial=0.0)), nmse, tolerance, share)


def _has_bound(output: Any) -> bool:
    """Whether the case's own bound applies; records are compared field by field."""
    return isinstance(output, np.ndarray) and output.dtype.names is None


def _values(output: Any) -> Array:
    """An output as float64: blocks dequantized, of records the float fields."""
    array = array_of(output)
    assert array is not None, "an output is an array"
    if array.dtype == Q8_BLOCK:
        return np.asarray(q8_blocks.dequantize(array.reshape(1, -1)), np.float64)
    if array.dtype.names:
        names = [name for name in array.dtype.names if array.dtype[name].kind == "f"]
        return np.stack([array[name] for name in names], axis=-1).astype(np.float64)
    return array.astype(np.float64)


def _errors(got: Array, wanted: Array) -> Array:
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(got - wanted))
    return np.asarray(np.nan_to_num(error, nan=math.inf, posinf=math.inf))


# ---- running a kernel ------------------------------------------------------------------------


def bind(op: str, format: str, variant: str) -> Kernel:
    """The variant's kernel, compiled if necessary."""
    bound = all_variants(op)[variant].bind(format)
    if callable(bound):
        return Kernel(op, format, variant, function=bound)
    return Kernel(op, format, variant, address=bound)


def run_on(kernel: Kernel, arguments: Arguments, executor: Any) -> None:
    """Makes one call as the engine does.  Without an executor: through ctypes, in one part."""
    slots = None if kernel.function else pack_arguments(kernel, arguments)
    Program([OpCall(kernel, arguments, "", slots)], executor).run()


def _run_parts(kernel: Kernel, arguments: Arguments, parts: list[int]) -> None:
    """Runs the parts one after the other, in this order."""
    slots = pack_arguments(kernel, arguments)
    function = _C_KERNEL(kernel.address)
    for part in parts:
        function(slots.ctypes.data, part, len(parts))


def _ways(kernel: Kernel) -> Iterator[tuple[str, Callable[[Arguments], None]]]:
    """(description, function): ways to make the same call, all of which must give the same bits."""
    yield "in one part", lambda a: run_on(kernel, a, None)
    if kernel.function is not None:
        yield "a second time", lambda a: run_on(kernel, a, None)
        return
    forward, backward = list(range(N_PARTS)), list(range(N_PARTS))[::-1]
    yield f"in {N_PARTS} parts", lambda a: _run_parts(kernel, a, forward)
    yield f"in {N_PARTS} parts, the last one first", lambda a: _run_parts(kernel, a, backward)
    executor = make_executor(N_PARTS // 2)
    if executor is not None:
        yield f"on {N_PARTS // 2} threads", lambda a: run_on(kernel, a, executor)
    yield "in one part, a second time", lambda a: run_on(kernel, a, None)


def check_case(case: Case, variant: str) -> list[Failure]:
    """What is wrong with a variant on one case; [] if nothing is."""
    prepared = Prepared(case)
    kernel = bind(case.op, case.format, variant)
    rounds = all_variants(case.op)[variant].rounds
    failures: list[Failure] = []
    first: dict[str, bytes] = {}
    for way, call in _ways(kernel):
        got = guarded(prepared.before)
        call(got.arguments)
        found = [f"{text} ({case.reason})" for text in prepared.differences(got.arguments, rounds)]
        found += [f"writes outside {place}" for place in got.broken()]
        found += [f"writes to its input {name}" for name in _spoiled(prepared, got.arguments)]
        if found:
            failures += [Failure(str(case), f"{text}, run {way}") for text in found]
            return failures
        bits = _bits(case, got.arguments)
        first = first or bits
        for name in bits:
            if bits[name] != first[name]:
                place = _first_difference(first[name], bits[name], prepared.after[name])
                what = f"the bits depend on how it is run: {name}{place}, run {way}"
                return [*failures, Failure(str(case), what)]
    return failures


def _spoiled(prepared: Prepared, got: Arguments) -> list[str]:
    """The inputs that the kernel changed."""
    found = []
    for name, argument in prepared.before.items():
        before, after = array_of(argument), array_of(got[name])
        if before is None or after is None or name in (*prepared.case.outputs, *SCRATCH):
            continue
        if before.tobytes() != after.tobytes():
            found.append(name)
    return found


def _bits(case: Case, arguments: Arguments) -> dict[str, bytes]:
    arrays = {name: array_of(arguments[name]) for name in case.outputs}
    return {name: array.tobytes() for name, array in arrays.items() if array is not None}


def _first_difference(a: bytes, b: bytes, output: Any) -> str:
    """The index and both values of the first element whose bits differ."""
    like = array_of(output)
    assert like is not None, "an output is an array"
    if like.dtype.names or isinstance(output, PackedWeight):
        at = int(np.flatnonzero(np.frombuffer(a, np.uint8) != np.frombuffer(b, np.uint8))[0])
        return f" at byte {at} is {b[at]} and was {a[at]}"
    width = like.itemsize
    cells_a, cells_b = (np.frombuffer(raw, f"V{width}") for raw in (a, b))
    at = int(np.flatnonzero(cells_a != cells_b)[0])
    index = [int(i) for i in np.unravel_index(at, like.shape)]
    was, now = (np.frombuffer(raw, like.dtype)[at].item() for raw in (a, b))
    return f"{index} is {now!r} and was {was!r}"
