"""Measures what the machine can do (ceilings), and whether it still can (the anchor).

Ceilings are the best values of the whole run: streaming reads of working sets of several sizes (a
cache reads faster than memory), and multiply-adds on registers.  The anchor is a fixed piece of
work, half arithmetic and half reading.  While it is slower than at its best, so is the machine, and
timings mean little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pyroclast.lab.check.inputs import cache_bytes
from pyroclast.lab.speed.rows import MeasuredCeiling
from pyroclast_kernels import ceiling
from pyroclast_kernels.program import native_program

_ANCHOR_ROUNDS = 50_000  # of 12 vectors of multiply-adds: about 0.1 ms
_ANCHOR_BYTES = 4 << 20
_ANCHOR_REPEATS = 5
_SMALLEST_READ = 1 << 20
_ARITHMETIC_REPEATS = 16  # of a few milliseconds each: at least one is undisturbed
KINDS = ("fma", "vnni", "int8", "bf16", "amxbf16")


class Machine:
    """Measures on the threads of `executor`, which is None if nothing native was built."""

    def __init__(self, executor: Any, n_threads: int) -> None:
        self._executor, self._n_threads = executor, n_threads
        self._has_kernels = executor is not None and bool(ceiling.kernels())
        self._best: dict[tuple[str, int], MeasuredCeiling] = {}
        self._run_anchor = self._native_anchor() if self._has_kernels else _numpy_anchor()

    def anchor_us(self) -> float:
        """The fastest of a few runs of the anchor."""
        times = []
        for _ in range(_ANCHOR_REPEATS):
            start = time.perf_counter_ns()
            self._run_anchor()
            times.append(time.perf_counter_ns() - start)
        return min(times) / 1000

    def measure(self, sizes: list[int]) -> list[MeasuredCeiling]:
        """Measures every ceiling once more and returns the best so far; [] if nothing native was
        built.  sizes: bytes of the streaming reads, besides those from memory."""
        if not self._has_kernels:
            return []
        for n_bytes in {read_size(size) for size in sizes} | {read_size(4 * cache_bytes())}:
            repeats = min(max(3, (128 << 20) // n_bytes), 64)
            value, how = ceiling.CeilingMeter(self._executor, n_bytes).read_gbs(repeats)
            self._keep(MeasuredCeiling("read", self._n_threads, value, "GB/s", n_bytes, how))
        arithmetic = ceiling.CeilingMeter(self._executor, _SMALLEST_READ)
        for kind in KINDS:
            value = arithmetic.arithmetic_gops(kind, _ARITHMETIC_REPEATS)
            if value:
                how = "registers only"
                self._keep(MeasuredCeiling(kind, self._n_threads, value, "Gop/s", 0, how))
        return list(self._best.values())

    def _keep(self, found: MeasuredCeiling) -> None:
        known = self._best.get((found.kind, found.n_bytes))
        if known is None or found.value > known.value:
            self._best[found.kind, found.n_bytes] = found

    def _native_anchor(self) -> Callable[[], object]:
        data = np.ones(_ANCHOR_BYTES, np.uint8)
        sink = np.zeros(64, np.int64)
        kernels, parts = ceiling.kernels(), [self._n_threads] * 2
        numbers = [[_ANCHOR_ROUNDS, 0, 0], [_ANCHOR_BYTES, 1, 0]]
        slots = [np.array([data.ctypes.data, sink.ctypes.data, *n], np.int64) for n in numbers]
        addresses = [kernels["fma"], kernels["read"]]
        structs = [each.ctypes.data for each in slots]
        program = native_program(self._executor, addresses, structs, parts)

        def run() -> None:
            program.run()
            assert data.size and sink.size and slots  # alive as long as the closure

        return run


def _numpy_anchor() -> Callable[[], object]:
    a = np.ones((256, 256), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def read_size(n_bytes: int) -> int:
    """The working set whose ceiling applies to a call of n_bytes: the power of two below, since
    twice that may not fit a cache that holds nearly all of the call's."""
    return max(_SMALLEST_READ, 1 << max(0, n_bytes.bit_length() - 1))


def roofline(
    seconds: float,
    n_flops: int,
    n_bytes: int,
    kind: str,
    ceilings: list[MeasuredCeiling],
    cache: str,
) -> tuple[float | None, str]:
    """(share, limit): the least time that the ceilings allow over the time taken, and the ceiling
    that binds.  Cold calls read from memory, warm calls from the cache that n_bytes fit.  Matrix
    registers whose ceiling is not known bind nothing: every other arithmetic is slower."""
    size = read_size(4 * cache_bytes() if cache == "cold" else n_bytes)
    rates = {"read": (n_bytes, _value(ceilings, "read", size))}
    if kind == "vnni" and not _value(ceilings, kind, 0):
        kind = "int8"
    if kind != "amxbf16" and not _value(ceilings, kind, 0):
        kind = "fma"
    rates[kind] = (n_flops, _value(ceilings, kind, 0))
    least = {name: work / rate / 1e9 for name, (work, rate) in rates.items() if work and rate}
    if not least:
        return None, ""
    limit = max(least, key=lambda name: least[name])
    return least[limit] / seconds, limit


def _value(ceilings: list[MeasuredCeiling], kind: str, n_bytes: int) -> float:
    return next((c.value for c in ceilings if (c.kind, c.n_bytes) == (kind, n_bytes)), 0.0)
