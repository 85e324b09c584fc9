"""Checks one variant on one case against the reference, then times it.  Runs in the child process.

Matrix products are also timed as `numpy-blas`: x @ w.T in NumPy, with w converted to float32
beforehand.  A NumPy user with enough memory would do that.
"""

from __future__ import annotations

import gc
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from pyroclast.lab.check.check import Accuracy, Prepared, bind, run_on
from pyroclast.lab.check.inputs import Arguments, Array, copy_of
from pyroclast.lab.speed import gpu, timing
from pyroclast.lab.speed.machine import Machine
from pyroclast.lab.speed.rows import BLAS, CACHES, DRIFT
from pyroclast_kernels.cases import Case, bench_cases, op_cases
from pyroclast_kernels.program import make_executor
from pyroclast_kernels.q8_blocks import dequantize
from pyroclast_kernels.selection import Kernel

_MAX_ATTEMPTS = 3
_MAX_REPEATED_S = 2.0  # what takes longer than this is not timed again


def find_case(op: str, format: str, name: str) -> Case:
    """The case of that name, preferably one that is timed."""
    for case in (*bench_cases(op), *op_cases(op)):
        if (case.format, case.name) == (format, name):
            return case
    raise LookupError(f"{op}.{format} has no case {name}")


class KernelBench:
    """Measures kernels.  Holds what the jobs of one child process share: threads, the machine, the
    last reference result."""

    def __init__(self, n_threads: int) -> None:
        self.executor = make_executor(n_threads)
        self.machine = Machine(self.executor, n_threads)
        self._prepared: Prepared | None = None
        self._best_anchor_us = min(self.machine.anchor_us() for _ in range(5))

    def prepare(self, op: str, format: str, name: str) -> Prepared:
        """The case with its reference result, which is kept until another case is asked for."""
        known = self._prepared
        if known is None or (known.case.op, known.case.format, known.case.name) != (
            op, format, name,
        ):  # fmt: skip
            self._prepared = known = None
            gc.collect()
            self._prepared = known = Prepared(find_case(op, format, name))
        return known

    def measure(
        self, op: str, format: str, name: str, variant: str, seconds: float
    ) -> dict[str, Any]:
        """The values of a row: {"accuracy", "errors"} and, for a variant that is right, "times".

        A variant that is launched on a GPU adds "gpu", which describes the device; Triton's
        interpreter gives no times."""
        prepared = self.prepare(op, format, name)
        if variant == BLAS:
            arguments = blas_arguments(prepared.before)
            kernel = Kernel(op, format, BLAS, function=blas)
        else:
            arguments = copy_of(prepared.before)
            kernel = bind(op, format, variant)
        got = copy_of(arguments)
        run_on(kernel, got, self.executor)
        on_gpu = gpu.launched(op, variant)
        rounds = on_gpu is not None and on_gpu.rounds
        errors = prepared.differences(got, rounds)
        accuracy = _plain(prepared.accuracy(got, rounds))
        found: dict[str, Any] = {"errors": errors, "accuracy": accuracy}
        if on_gpu is not None and on_gpu.launch is not None:
            found["gpu"] = gpu.about()
            timed = None if errors else gpu.times(on_gpu.launch(format), arguments, seconds)
            if timed is not None:
                found["times"] = {cache: _as_times(timed[cache], None) for cache in CACHES}
        elif not errors:
            found["times"] = {
                cache: self._time(cache, kernel, arguments, seconds) for cache in CACHES
            }
        return found

    def _time(
        self, cache: str, kernel: Kernel, arguments: Arguments, seconds: float
    ) -> dict[str, Any]:
        """Times the kernel, up to three times, until the anchor is steady before and after."""
        time_it = timing.cold if cache == "cold" else timing.warm
        best: tuple[float, timing.Timing] | None = None
        begin = time.perf_counter()
        for _ in range(_MAX_ATTEMPTS):
            before = self.machine.anchor_us()
            timed = time_it(kernel, arguments, self.executor, seconds)
            anchor = max(before, self.machine.anchor_us())
            self._best_anchor_us = min(self._best_anchor_us, before, anchor)
            if best is None or anchor < best[0]:
                best = anchor, timed
            took = time.perf_counter() - begin
            if best[0] / self._best_anchor_us - 1 <= DRIFT or took > _MAX_REPEATED_S:
                break
        assert best is not None, "there is at least one attempt"
        anchor, timed = best
        return _as_times(timed, anchor)


def _as_times(timed: timing.Timing, anchor_us: float | None) -> dict[str, Any]:
    """The values of a row for one state of the caches; a GPU has no anchor."""
    return {
        "median_us": timed.median_us,
        "iqr_us": timed.iqr_us,
        "n_runs": timed.n_runs,
        "anchor_us": anchor_us,
    }


def blas(x: Array, weight: Array, out: Array) -> None:
    """out = x @ weight.T, all float32."""
    np.matmul(x, weight.T, out=out)


def blas_arguments(arguments: Arguments) -> Arguments:
    """Arguments of `blas` for a matmul without bias, accumulation or gaps between rows of out."""
    x, weight, n_tokens = arguments["x"], arguments["weight"], int(arguments["n_tokens"][0])
    values = dequantize(x[:n_tokens]) if weight.takes_q8 else x[:n_tokens]
    return {"x": values, "weight": weight.dequantize(), "out": arguments["out"][:n_tokens]}


def _plain(accuracy: Accuracy) -> dict[str, float | None]:
    return {k: v if np.isfinite(v) else None for k, v in asdict(accuracy).items()}
