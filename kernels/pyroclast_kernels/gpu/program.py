"""A step program on the GPU: the calls that a Recorder noted, launched, or replayed as CUDA graphs.

Kernels read on the device how much of each array is used, so one graph serves every step within
its bounds.  A step in which every sequence has one new token, as in decoding, is rounded up to the
next bound of tokens (1, 2, 4, ..., 64, 128, 192, ...) and of the longest sequence (1024, 4096,
16384, ...), and each pair of bounds has a graph of its own: inputs, patches, every op, the sampler,
outputs.
Steps that read prompts are launched call by call; their kernels are long enough to hide that.

The host waits once in a step, for its outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
import triton

from pyroclast_kernels.attention.cache import BLOCK_SIZE
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.gpu.bounds import Bounds, all_bounds, bounds_of
from pyroclast_kernels.gpu.fusion import fusions
from pyroclast_kernels.gpu.memory import DeviceMemory
from pyroclast_kernels.program import OpCall, Program
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits

_QUEUE_S = 50e-6  # what it takes to enqueue one call, rather more than less
_FILL_S = 12e-6  # what it takes the GPU to fill the scratch buffer, rather less than more


class Replays(Protocol):
    """Turns a series of launches into something that repeats them.  warms: it is worth doing
    before the first request."""

    warms: bool

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]: ...


class Graphs:
    """CUDA graphs, in one pool of memory.  What is captured has been launched before, so nothing
    is compiled or loaded meanwhile."""

    warms = True

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Other threads of the program may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            launch()
        replay: Callable[[], None] = graph.replay
        return replay


class Launches:
    """Replays by launching again: Triton's interpreter has no graphs."""

    warms = False

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        return launch


class DeviceProgram(Program):
    """Replays recorded calls on the GPU; `run` returns when the outputs of the step are there.
    The calls' arrays are of `memory`.  KernelError if the driver fails."""

    def __init__(
        self,
        calls: list[OpCall],
        memory: DeviceMemory,
        batch: Batch,
        max_seq_len: int,
        replays: Replays | None = None,
        tuned: bool = False,
    ) -> None:
        """tuned: products take the tiles of this GPU's table (triton/choices.py)."""
        self.calls, self.segments = calls, [calls]
        self.native_seconds = 0.0
        self.executor, self.n_parts = None, 1  # what timeline.py asks: no parts are seen from here
        self._memory, self.batch, self.max_seq_len = memory, batch, max_seq_len
        self._tensors = [self._tensors_of(call) for call in calls]
        self._fusions = [fusions(calls[i:]) for i in range(len(calls))]
        tokens_at = batch.n_tokens_at.ctypes.data
        counts = [call.n_tokens for call in calls]  # an op that counts sequences has none
        self._of_rows = [n is not None and n.ctypes.data != tokens_at for n in counts]
        self.replays = replays or (Launches() if triton_device.INTERPRETED else Graphs())
        self.captured: dict[Bounds, Callable[[], None]] = {}
        self._tuned = tuned

    def _tensors_of(self, call: OpCall) -> dict[str, Any]:
        return {name: self._memory.tensor(value) for name, value in call.arguments.items()}

    def _limits(self, bounds: Bounds) -> tuple[Limits, Limits]:
        """(limits of calls that count tokens, limits of calls that count rows of logits)."""
        of_tokens, of_rows = bounds.limits(False), bounds.limits(True)
        return replace(of_tokens, tuned=self._tuned), replace(of_rows, tuned=self._tuned)

    def _launch_one(self, index: int, limits: Limits) -> None:
        launch = self.calls[index].kernel.launch
        assert launch is not None, "recorded for the GPU"
        launch(limits, **self._tensors[index])

    def units(self, bounds: Bounds) -> list[tuple[int, Callable[[], None]]]:
        """The launches of a step within these bounds, as (number of calls, what runs them)."""
        units: list[tuple[int, Callable[[], None]]] = []
        both = self._limits(bounds)
        index = 0
        while index < len(self.calls):
            limits = both[self._of_rows[index]]
            fusion = next((f for f in self._fusions[index] if f.fits(limits)), None)
            n = len(fusion.ops) if fusion else 1
            if limits.n_tokens < 1:  # no logits are wanted
                units.append((n, lambda: None))
            elif fusion:
                units.append((n, partial(fusion.launch, limits, *self._tensors[index : index + n])))
            else:
                units.append((1, partial(self._launch_one, index, limits)))
            index += n
        return units

    # ---- a step ----------------------------------------------------------------------------

    def run(self) -> None:
        """One step on whatever the inputs hold now."""
        start = time.perf_counter()
        with _Failing(self._memory):
            bounds = self._prepare()
            replay = self.captured.get(bounds)
            if replay is not None:
                replay()
            else:
                self._launch(bounds)
                if bounds.decode:
                    self._memory.wait()
                    self.captured[bounds] = self._capture(bounds)
            self._memory.wait()
        self.native_seconds += time.perf_counter() - start

    def _prepare(self) -> Bounds:
        """Sends what changed in the tables and returns the bounds of the step."""
        batch = self.batch
        bounds = bounds_of(batch, self.max_seq_len)
        n_blocks = min(batch.max_blocks, -(-bounds.longest // BLOCK_SIZE))
        self._memory.note_changes(batch.block_tables, batch.n_seqs, n_blocks)
        self._memory.send_noted()
        return bounds

    def _launch(self, bounds: Bounds) -> None:
        self._memory.begin()
        for _, launch in self.units(bounds):
            launch()
        self._memory.end()

    def _capture(self, bounds: Bounds) -> Callable[[], None]:
        return self.replays.capture(partial(self._launch, bounds))

    # ---- before the first request ------------------------------------------------------------

    @property
    def n_warm_ups(self) -> int:
        return len(self._warm_up_bounds())

    def _warm_up_bounds(self) -> list[Bounds]:
        return all_bounds(self.batch, self.max_seq_len) if self.replays.warms else []

    def warm_up(self, show: Callable[[int], None] = lambda _: None) -> None:
        """Compiles the kernels, or loads them from Triton's cache on disk, and captures the graphs
        of decoding, on empty steps; show(n) is told how many bounds are done."""
        batch, counts = self.batch, self.batch.counts.copy()
        batch.counts[:] = 0
        with _Failing(self._memory):
            for i, bounds in enumerate(self._warm_up_bounds()):
                self._launch(bounds)
                if bounds.decode and bounds not in self.captured:
                    self._memory.wait()
                    self.captured[bounds] = self._capture(bounds)
                show(i + 1)
            self._memory.wait()
        batch.counts[:] = counts

    def close(self) -> None:
        """Lets go of the arrays and graphs: nothing is run from here on."""
        self.calls, self.segments, self._tensors, self._fusions = [], [], [], []
        self.captured.clear()

    # ---- to look at it -----------------------------------------------------------------------

    def run_one(self, index: int) -> None:
        """Runs only call number `index`, so that each result of a step can be inspected."""
        with _Failing(self._memory):
            bounds = self._prepare()
            self._memory.begin()
            self._launch_one(index, self._limits(bounds)[self._of_rows[index]])
            self._memory.wait()

    def profile(self) -> list[float]:
        """Runs one step kernel by kernel; the microseconds that each call took on the GPU.  Of
        calls that are one kernel the last one has its time, and the others none."""
        with _Failing(self._memory):
            bounds = self._prepare()
            self._launch(bounds)  # nothing is compiled below
            self._memory.wait()
            units = self.units(bounds)
            launches = [launch for _, launch in units]
            times = _timed_on_host(launches) if triton_device.INTERPRETED else _timed(launches)
        found: list[float] = []
        for (n, _), time_us in zip(units, times, strict=True):
            found += [0.0] * (n - 1) + [time_us]
        return found

    def is_traced(self, segment: int) -> bool:
        """Never: see watch."""
        del segment
        return False

    def watch(self, note: Callable[[int, int, int], None] | None) -> None:
        """Raises KernelError: a timeline shows the parts of a step on the CPU."""
        if note is not None:
            raise KernelError(
                "a step on the GPU has no timeline of threads; Model.profile() times its "
                'kernels, and device="cpu" has a timeline'
            )


def _timed_on_host(calls: list[Callable[[], None]]) -> list[float]:
    found = []
    for call in calls:
        start = time.perf_counter_ns()
        call()
        found.append((time.perf_counter_ns() - start) / 1000)
    return found


def _timed(calls: list[Callable[[], None]]) -> list[float]:
    """The microseconds of each launch, between events.  The GPU is kept busy until all launches
    are enqueued, or the intervals would include waiting for the host."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(len(calls) + 1)]
    scratch = triton_device.scratch()
    for _ in range(int(len(calls) * _QUEUE_S / _FILL_S)):
        scratch.fill_(0)
    marks[0].record()
    for call, mark in zip(calls, marks[1:], strict=True):
        call()
        mark.record()
    marks[-1].synchronize()
    return [1000 * float(a.elapsed_time(b)) for a, b in pairwise(marks)]


class _Failing:
    """Turns errors of the driver and of Triton into KernelErrors.  After any exception the tables
    are sent again."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            return
        self._memory.forget()
        if isinstance(error, RuntimeError | triton.TritonError):
            raise KernelError(
                f"the step failed on the GPU: {str(error).strip() or type(error).__name__}"
            ) from error
