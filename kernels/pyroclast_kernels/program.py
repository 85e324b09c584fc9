"""A step program: what a forward pass calls, recorded once and replayed every step.

`Recorder.call` notes an op with its arguments; nothing runs.  `Program.run` replays the calls:
neighbouring compiled kernels in one native call without the GIL, Python functions (the NumPy
reference, if it was chosen) between them.  Without the native executor the same calls are made
one by one through ctypes, in one thread.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.native.scratch import reserve_scratch
from pyroclast_kernels.native.strings import load_executor
from pyroclast_kernels.registry import get_op
from pyroclast_kernels.selection import Kernel, Selection
from pyroclast_kernels.tables import FEW_TOKENS
from pyroclast_kernels.weights.packing import PackedWeight

_executor = load_executor()

# Parts per thread: more even out two unequal cores, each costs an atomic addition.
PARTS_PER_THREAD = 2

# Ops in which one thread computes a whole token (or row).  With a single token there is no work to
# share, so the threads need not wait for each other before the call.
TOKEN_OPS = (
    "embed", "norm", "rope_table", "rope", "sample", "gather_rows", "residual", "qk_norm",
    "route", "group", "combine", "l2_norm", "gated_norm", "layer_input",
    "altup_predict", "altup_correct", "match_rms", "sparse_gate",
)  # fmt: skip

_C_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)


def make_executor(n_threads: int) -> Any:
    """The native executor with that many threads, or None where it was not built.  KernelError if
    so many threads cannot be started."""
    if _executor is None:
        return None
    try:
        return _executor.Executor(n_threads)
    except RuntimeError as error:
        raise KernelError(
            f"{error}; ask for fewer threads, or raise the limit on threads (ulimit -u, TasksMax) "
            "or on memory (ulimit -v), which their stacks take"
        ) from error


def native_program(
    executor: Any,
    addresses: list[int],
    args: list[int],
    parts: list[int],
    many: Sequence[int] = (),
    n_tokens: Sequence[int] = (),
    n_items: Sequence[int] = (),
) -> Any:
    """A program of the native executor; the caller keeps the argument structs alive.  many: other
    kernels (or 0) for calls of more than FEW_TOKENS tokens, counted at the addresses n_tokens.
    n_items: where calls whose items are each done by one thread are counted (or 0)."""
    calls = [*zip(addresses, args, strict=False), *zip(many, args, strict=False)]
    reserve_scratch(calls, _executor.n_live_threads())
    return _executor.Program(executor, addresses, args, parts, many, n_tokens, n_items)


def native_trace(executor: Any, spans_per_thread: int, n_runs: int) -> Any:
    """A recording of the executor's runs (timeline.py reads it), with room for that many."""
    return _executor.Trace(executor, spans_per_thread, n_runs)


def native_load_rows() -> int:
    """The address of what reads rows and packs them (file_loading.py), or 0 where the executor was
    not built."""
    return 0 if _executor is None else int(_executor.LOAD_ROWS)


def native_mapping(descriptor: int, n_bytes: int) -> Any:
    """A file mapped for reading (mapped_file.py says more), or None where the executor was not
    built.  OSError if the system refuses."""
    return None if _executor is None else _executor.Mapping(descriptor, n_bytes)


@dataclass
class OpCall:
    """One op of the program; `label` says where in the model it stands ("layer 3").  `many`, where
    a tuned table has one, runs instead of `kernel` if the call has more than FEW_TOKENS tokens."""

    kernel: Kernel
    arguments: dict[str, Any]
    label: str
    slots: Any = None  # the argument struct of a compiled kernel: int64, 8 bytes a field
    many: Kernel | None = None

    @property
    def n_tokens(self) -> Any:
        """The call's count, int64 (1,), that the caller refills; None where the op has none."""
        found = self.arguments.get("n_tokens", self.arguments.get("n_rows"))
        return found if isinstance(found, np.ndarray) else None

    def under(self, kernel: Kernel) -> OpCall:
        """The same call of another kernel, whatever the number of tokens."""
        slots = self.slots
        if slots is None and kernel.function is None:
            slots = pack_arguments(kernel, self.arguments)
        return OpCall(kernel, self.arguments, self.label, slots)

    def running(self) -> Kernel:
        """The kernel that the current number of tokens selects."""
        split = self.many is not None and self.n_tokens[0] > FEW_TOKENS
        return self.many if self.many is not None and split else self.kernel


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
    """Collects the calls of a forward pass: every op by keyword, in the reference's order."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.calls: list[OpCall] = []
        self.label = ""

    def call(self, op: str, format: str = "f32", **arguments: Any) -> None:
        self._add(*self.selection.kernels(op, format, arguments), arguments)

    def call_fused(self, op: str, format: str = "f32", **arguments: Any) -> bool:
        """Notes an op that stands for others (selection.FUSED); False, and nothing noted, where the
        others were chosen apart."""
        kernels = self.selection.fused(op, format, arguments)
        if kernels is not None:
            self._add(*kernels, arguments)
        return kernels is not None

    def _add(self, kernel: Kernel, many: Kernel, arguments: dict[str, Any]) -> None:
        for name in get_op(kernel.op).doubles:
            if name in arguments:
                arguments[name] = float(arguments[name])
        runs_python = kernel.function or kernel.launch
        slots = None if runs_python else pack_arguments(kernel, arguments)
        call = OpCall(kernel, arguments, self.label, slots)
        # A Python function stands between two segments, whatever the count.
        if many is not kernel and call.n_tokens is not None and not kernel.function:
            call.many = None if many.function else many
        self.calls.append(call)


class Program:
    """Replays recorded calls.  n_threads counts the caller; executor None: ctypes, one thread."""

    def __init__(self, calls: list[OpCall], executor: Any = None) -> None:
        self.calls = calls
        self.native_seconds = 0.0
        n_threads = 1 if executor is None else executor.n_threads
        self.n_parts = 1 if n_threads == 1 else n_threads * PARTS_PER_THREAD
        self.executor = executor
        self.segments = self._segments(calls, executor is None)
        self._steps = [self._step(segment) for segment in self.segments]
        self._unwatched = self._steps
        self._was_watched = False

    @staticmethod
    def _segments(calls: list[OpCall], alone: bool) -> list[list[OpCall]]:
        """Runs of compiled kernels together, unless `alone`; each Python function on its own."""
        segments: list[list[OpCall]] = []
        for call in calls:
            native = call.kernel.function is None and not alone
            if segments and native and segments[-1][-1].kernel.function is None:
                segments[-1].append(call)
            else:
                segments.append([call])
        return segments

    def _step(self, segment: list[OpCall]) -> Callable[[], object]:
        function = segment[0].kernel.function
        if function is not None:
            arguments = segment[0].arguments
            return lambda: function(**arguments)
        if self.executor is not None:
            return self._native_program(segment).run  # type: ignore[no-any-return]
        [call] = segment
        kernels = {k.address: _C_KERNEL(k.address) for k in (call.kernel, call.many) if k}
        slots = call.slots.ctypes.data
        return lambda: kernels[call.running().address](slots, 0, 1)

    def _native_program(self, segment: list[OpCall]) -> Any:
        return native_program(
            self.executor,
            [c.kernel.address for c in segment],
            [c.slots.ctypes.data for c in segment],
            [self.n_parts] * len(segment),
            [c.many.address if c.many else 0 for c in segment],
            [c.n_tokens.ctypes.data if c.many else 0 for c in segment],
            [c.n_tokens.ctypes.data if c.kernel.op in TOKEN_OPS else 0 for c in segment],
        )

    def run(self) -> None:
        """One step on whatever the argument arrays hold now."""
        start = perf_counter()
        for step in self._steps:
            step()
        self.native_seconds += perf_counter() - start

    @property
    def n_warm_ups(self) -> int:
        """Kinds of step that `warm_up` prepares: none, native kernels are ready."""
        return 0

    def warm_up(self, show: Callable[[int], None]) -> None:
        """Nothing to do."""

    def is_traced(self, segment: int) -> bool:
        """Whether the executor runs that segment, and so records its parts."""
        return self.executor is not None and self.segments[segment][0].kernel.function is None

    def watch(self, note: Callable[[int, int, int], None] | None) -> None:
        """From now on `note` is told each segment's number, begin and end (perf_counter_ns), until
        it is None again; see timeline.py."""
        self._steps = self._unwatched
        if note is not None:
            self._was_watched = True
            self._steps = [_timed(i, step, note) for i, step in enumerate(self._unwatched)]

    def close(self) -> None:
        """Lets go of the arrays: nothing is run from here on.  Whoever keeps the program, a
        traceback say, keeps no model with it.  A timeline that watched it keeps its calls."""
        self._steps, self._unwatched = [], []
        if not self._was_watched:
            self.calls, self.segments = [], []

    def run_one(self, index: int) -> None:
        """Runs only call number `index`, so that each result of a step can be inspected."""
        self.run_some((index,))

    def run_some(self, indices: Sequence[int]) -> None:
        """Runs only these calls, in this order: what they give together can then be inspected."""
        chosen = [self.calls[index] for index in indices]
        for segment in self._segments(chosen, self.executor is None):
            self._step(segment)()


def _timed(
    number: int, step: Callable[[], object], note: Callable[[int, int, int], None]
) -> Callable[[], object]:
    def run() -> None:
        begin = time.perf_counter_ns()
        step()
        note(number, begin, time.perf_counter_ns())

    return run
