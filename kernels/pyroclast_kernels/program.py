"""A step program: what a forward pass calls, recorded once and replayed every step.

`Recorder.call` notes an op with its arguments; nothing runs.  `Program.run` replays the calls:
neighbouring compiled kernels in one native call without the GIL, Python functions (the NumPy
reference, if it was chosen) between them.  Without the native executor the same calls are made
one by one through ctypes, in one thread.
"""

from __future__ import annotations

import ctypes
import importlib
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul.packing import PackedWeight
from pyroclast_kernels.registry import Kernel, Selection, get_op


def _load_executor() -> Any:
    """The native module, or None where there was no compiler (`pyroclast doctor` tells)."""
    name = "pyroclast_kernels._executor"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


_executor = _load_executor()

# Parts per thread: more even out two unequal cores, each costs an atomic addition.
PARTS_PER_THREAD = 2

_C_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)


def make_executor(n_threads: int) -> Any:
    """The native executor with that many threads, or None where it was not built."""
    return None if _executor is None else _executor.Executor(n_threads)


def native_program(executor: Any, addresses: list[int], args: list[int], parts: list[int]) -> Any:
    """A program of the native executor; the caller keeps the argument structs alive."""
    return _executor.Program(executor, addresses, args, parts)


@dataclass
class Call:
    """One op of the program; `label` says where in the model it stands ("layer 3")."""

    kernel: Kernel
    arguments: dict[str, Any]
    label: str
    slots: Any = None  # the argument struct of a compiled kernel: int64, 8 bytes a field


def pack_arguments(kernel: Kernel, arguments: dict[str, Any]) -> Any:
    """The struct that a compiled kernel reads: int64 (n_parameters,), in the reference's order."""
    parameters = get_op(kernel.op).parameters
    if tuple(arguments) != parameters:
        raise KernelError(f"{kernel.op} takes ({', '.join(parameters)}), got {list(arguments)}")
    slots = np.zeros(len(parameters), np.int64)
    for i, argument in enumerate(arguments.values()):
        value = argument.data if isinstance(argument, PackedWeight) else argument
        if isinstance(value, np.ndarray):
            slots[i] = value.ctypes.data
        elif isinstance(value, float):
            slots[i] = struct.unpack("<q", struct.pack("<d", value))[0]
        elif value is not None:
            slots[i] = int(value)
    return slots


class Recorder:
    """Collects calls; `ops` in model.py.  Every op is called by keyword, in the op's order."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.calls: list[Call] = []
        self.label = ""

    def call(self, op: str, format: str = "f32", **arguments: Any) -> None:
        kernel = self.selection.kernel(op, format)
        slots = None if kernel.function else pack_arguments(kernel, arguments)
        self.calls.append(Call(kernel, arguments, self.label, slots))


class Program:
    """Replays recorded calls.  n_threads counts the caller; executor None: ctypes, one thread."""

    def __init__(self, calls: list[Call], executor: Any = None) -> None:
        self.calls = calls
        self.native_seconds = 0.0
        n_threads = 1 if executor is None else executor.n_threads
        self.n_parts = 1 if n_threads == 1 else n_threads * PARTS_PER_THREAD
        self._executor = executor
        segments = self._segments(calls)
        self._native = segments[0] if len(segments) == 1 and executor is not None else None
        self._steps = [self._step(segment) for segment in segments]

    @staticmethod
    def _segments(calls: list[Call]) -> list[list[Call]]:
        """Runs of compiled kernels together, each Python function on its own."""
        segments: list[list[Call]] = []
        for call in calls:
            native = call.kernel.function is None
            if segments and native and segments[-1][-1].kernel.function is None:
                segments[-1].append(call)
            else:
                segments.append([call])
        return segments

    def _step(self, segment: list[Call]) -> Callable[[], object]:
        function = segment[0].kernel.function
        if function is not None:
            arguments = segment[0].arguments
            return lambda: function(**arguments)
        if self._executor is not None:
            return self._native_program(segment).run  # type: ignore[no-any-return]
        bound = [(_C_KERNEL(c.kernel.address), c.slots.ctypes.data) for c in segment]

        def run() -> None:
            for kernel, slots in bound:
                kernel(slots, 0, 1)

        return run

    def _native_program(self, segment: list[Call]) -> Any:
        return native_program(
            self._executor,
            [c.kernel.address for c in segment],
            [c.slots.ctypes.data for c in segment],
            [self.n_parts] * len(segment),
        )

    def run(self) -> None:
        """One step on whatever the argument arrays hold now."""
        start = time.perf_counter()
        for step in self._steps:
            step()
        self.native_seconds += time.perf_counter() - start

    def run_one(self, index: int) -> None:
        """Only call number `index`: to look at every result of a step in turn."""
        self._step([self.calls[index]])()

    def profile(self) -> list[float]:
        """Runs one step and returns the microseconds of each call."""
        if self._native is not None:
            return [ns / 1000 for ns in self._native_program(self._native).profile()]
        times = []
        for i in range(len(self.calls)):
            step = self._step([self.calls[i]])
            start = time.perf_counter()
            step()
            times.append((time.perf_counter() - start) * 1e6)
        return times
