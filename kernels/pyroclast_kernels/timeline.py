"""What every thread did in a step: the executor's own record, begin and end of each part.

    with TimelineRecorder([program], n_runs=1) as recorder:
        program.run()
    [run] = recorder.runs()

Times are nanoseconds of time.perf_counter_ns.  A call lasts from the end of the call before it (the
barrier) until its own last part ends, whichever thread ran that; so the calls of a run and its
tail add up to the run, and on every thread what is not a part is waiting.  A Python function, or a
step without the native executor, is one part on thread 0.

All memory is taken before the first run.  While a recorder is on it costs two clock reads a part;
when it is off it costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.program import PARTS_PER_THREAD, Program, native_trace

Array = NDArray[Any]

# As PartSpan and RunSpan of native/executor.h.
PART = np.dtype(
    [
        ("run", "<i4"),
        ("call", "<i4"),
        ("part", "<i4"),
        ("thread", "<i4"),
        ("begin_ns", "<i8"),
        ("end_ns", "<i8"),
    ]
)
RUN = np.dtype([("begin_ns", "<i8"), ("end_ns", "<i8")])


@dataclass(frozen=True)
class TimelineRun:
    """One Program.run.  parts: PART (n,), `call` counting the program's calls, sorted by begin."""

    program: Program
    begin_ns: int
    end_ns: int
    parts: Array

    @property
    def wall_ns(self) -> int:
        return self.end_ns - self.begin_ns

    def calls(self) -> CallTimes:
        """When each call began and ended, and how long its parts took together."""
        n_calls, call = len(self.program.calls), self.parts["call"]
        end = np.full(n_calls, self.begin_ns)
        np.maximum.at(end, call, self.parts["end_ns"])
        end = np.maximum.accumulate(end)
        begin = np.concatenate([[self.begin_ns], end[:-1]])
        first = end.copy()
        np.minimum.at(first, call, self.parts["begin_ns"])
        busy = np.zeros(n_calls, np.int64)
        np.add.at(busy, call, self.parts["end_ns"] - self.parts["begin_ns"])
        return CallTimes(begin, first, end, busy)


@dataclass(frozen=True)
class CallTimes:
    """int64 (n_calls,) each: the barrier before, the first part's begin, the last part's end, and
    the parts' times together."""

    begin_ns: Array
    first_ns: Array
    end_ns: Array
    busy_ns: Array

    @property
    def wall_ns(self) -> Array:
        """From barrier to barrier."""
        return self.end_ns - self.begin_ns


class TimelineRecorder:
    """Records the runs of some programs that share an executor; a context manager.

    n_runs: how many runs of them there is room for; KernelError from `runs` if there were more."""

    def __init__(self, programs: Sequence[Program], n_runs: int) -> None:
        self._programs = programs
        self._log: list[tuple[int, int, int, int]] = []  # program, segment, begin, end
        executors = {id(p.executor): p.executor for p in programs if p.executor is not None}
        if len(executors) > 1:
            raise KernelError("a timeline records one executor, got programs of several")
        # A thread whose neighbours are off their cores runs more than its share of the parts: up to
        # four threads it may run all of them, with more four times its share.
        n_parts = max(
            len(program.calls) * min(program.n_parts, 4 * PARTS_PER_THREAD) for program in programs
        )
        n_segments = max(len(program.segments) for program in programs)
        self._native = None
        for executor in executors.values():
            self._native = native_trace(executor, n_parts * n_runs, n_segments * n_runs)

    def __enter__(self) -> TimelineRecorder:
        for number, program in enumerate(self._programs):
            program.watch(self._noter(number))
        if self._native is not None:
            self._native.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._native is not None:
            self._native.stop()
        for program in self._programs:
            program.watch(None)

    def _noter(self, number: int) -> Any:
        append = self._log.append
        return lambda segment, begin, end: append((number, segment, begin, end))

    def runs(self) -> list[TimelineRun]:
        """Every whole run so far, in order."""
        parts, bounds = self._native_parts()
        found: list[TimelineRun] = []
        pieces: list[Array] = []
        begin_ns = i = 0
        for number, segment, begin, end in self._log:
            program = self._programs[number]
            if segment == 0:
                pieces, begin_ns = [], begin
            first_call = sum(map(len, program.segments[:segment]))
            if program.is_traced(segment):
                while bounds[i]["begin_ns"] < begin:  # somebody else's, before
                    i += 1
                piece = parts[i].copy()
                piece["call"] += first_call
                i += 1
            else:
                piece = np.array([(0, first_call, 0, 0, begin, end)], PART)
            pieces.append(piece)
            if segment == len(program.segments) - 1:
                joined = np.concatenate(pieces)
                joined = joined[np.argsort(joined["begin_ns"], kind="stable")]
                found.append(TimelineRun(program, begin_ns, end, joined))
        return found

    def _native_parts(self) -> tuple[list[Array], Array]:
        """The parts of each run of the executor, and RUN (n_runs,)."""
        if self._native is None:
            return [], np.zeros(0, RUN)
        if self._native.n_dropped:
            raise KernelError(
                f"the timeline had no room for {self._native.n_dropped} of its records"
            )
        runs = np.frombuffer(self._native.runs, RUN)
        parts = np.frombuffer(self._native.spans, PART)
        parts = parts[np.argsort(parts["run"], kind="stable")]
        edges = np.searchsorted(parts["run"], np.arange(len(runs) + 1))
        return [parts[a:b] for a, b in pairwise(edges)], runs


def profile(program: Program) -> list[float]:
    """Runs one step; the microseconds of each call, from barrier to barrier."""
    with TimelineRecorder([program], 1) as recorder:
        program.run()
    [run] = recorder.runs()
    return [float(ns) / 1000 for ns in run.calls().wall_ns]
