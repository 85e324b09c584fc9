"""Times calls with warm caches (the same arguments every time) and cold ones (copies in turn).

The executor makes the calls, as in the engine.  A short call runs several times between two clock
reads, and a sample is the mean.  The cold copies are several times as large as the last cache, and
come in an order that no prefetcher can predict.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from pyroclast.lab.check.inputs import Arguments, cache_bytes, copy_of, n_copies
from pyroclast_kernels.program import OpCall, Program, pack_arguments
from pyroclast_kernels.selection import Kernel

# Reading the clock and calling from Python cost about 0.5 us, waking sleeping threads several.  The
# engine pays that once for hundreds of calls.
_SAMPLE_S = 60e-6
_MAX_BATCH = 2000
_MAX_SAMPLES = 500
_SLOW_S = 0.3  # a call that takes longer is timed once: only references do
_MIN_SAMPLES = 5
_TIMES_CACHE = 3  # bytes of all cold copies over the size of the last cache


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call, over n_runs calls: a sample may be the mean of several."""

    samples_us: tuple[float, ...]
    n_runs: int

    @property
    def median_us(self) -> float:
        return statistics.median(self.samples_us)

    @property
    def iqr_us(self) -> float:
        low, high = np.percentile(self.samples_us, [25, 75])
        return float(high - low)


def warm(kernel: Kernel, arguments: Arguments, executor: Any, seconds: float) -> Timing:
    """Times the same call again and again."""
    call = make_call(kernel, arguments)
    once = _once(call, executor)
    n_calls = _batch(kernel, once)
    program = Program([call] * n_calls, executor)
    samples = _sample(cycle([program]), n_calls, once, seconds)
    return Timing(samples, len(samples) * n_calls)


def cold(kernel: Kernel, arguments: Arguments, executor: Any, seconds: float) -> Timing:
    """Times the call on copies of the arguments in turn."""
    n = n_copies(arguments, _TIMES_CACHE * cache_bytes())
    calls = [make_call(kernel, copy_of(arguments)) for _ in range(n)]
    once = _once(calls[0], executor)
    order = np.random.default_rng(n).permutation(n)
    n_calls = min(_batch(kernel, once), n)
    programs = [
        Program([calls[i] for i in order[first : first + n_calls]], executor)
        for first in range(0, n - n_calls + 1, n_calls)
    ]
    programs[-1].run()
    samples = _sample(cycle(programs), n_calls, once, seconds)
    return Timing(samples, len(samples) * n_calls)


def make_call(kernel: Kernel, arguments: Arguments) -> OpCall:
    """A recorded call.  The arguments of a Python function need not be those of an op."""
    slots = None if kernel.function else pack_arguments(kernel, arguments)
    return OpCall(kernel, arguments, "", slots)


def _once(call: OpCall, executor: Any) -> float:
    """Seconds of the second call; the first one has to fault its memory in."""
    program = Program([call], executor)
    program.run()
    start = time.perf_counter()
    program.run()
    return max(time.perf_counter() - start, 1e-7)


def _batch(kernel: Kernel, once: float) -> int:
    """The number of calls between two clock reads; Python functions are too slow to need more than
    one."""
    return 1 if kernel.function else min(_MAX_BATCH, max(1, round(_SAMPLE_S / once)))


def _sample(
    programs: Iterator[Program], n_calls: int, once: float, seconds: float
) -> tuple[float, ...]:
    least = 1 if once > _SLOW_S else _MIN_SAMPLES
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < least or (time.perf_counter() < end and len(samples) < _MAX_SAMPLES):
        program = next(programs)
        start = time.perf_counter_ns()
        program.run()
        samples.append((time.perf_counter_ns() - start) / n_calls / 1000)
    return tuple(samples)
