"""How long a launch takes: on the device, by its own events, on tensors that already lie there.

There are two figures.  Cold: one call after the L2 was flushed.  A buffer larger than the L2 is
written and then read in part: without the read, writing it back would still use the memory during
the call.  The flush takes longer than Python takes to enqueue the call, so Python leaves no gap
between two kernels of the call.  Replayed: many calls in a CUDA graph, as the engine runs them, on
the same tensors: data that fits the L2 is read from there.

The interpreter's clock says nothing about a kernel; `cold` and `replayed` want a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from pyroclast_kernels.triton.device import device
from pyroclast_kernels.triton.launch import Launch, Limits, host_tensor, limits_of, on_device
from pyroclast_kernels.weights.packing import PackedWeight

Launched = Callable[[], None]

# Many times the L2 of any GPU so far, and a fifth of a millisecond or more to write.
FLUSH_BYTES = 1 << 30
_READ_BYTES = 256 << 20  # of its beginning: what was written last has to go
_BETWEEN_WAITS = 5  # calls that are enqueued before their events are read
_MIN_SAMPLES, _MAX_SAMPLES = 5, 200
_GRAPH_US = 2000.0  # a replay is about as long, so that its own launch does not count
_MAX_IN_GRAPH = 50


@dataclass(frozen=True)
class Timed:
    """Microseconds of one call, measured several times; how: what was in the caches."""

    samples_us: tuple[float, ...]
    n_runs: int
    how: str


def placed(arguments: dict[str, Any]) -> tuple[Limits, dict[str, Any]]:
    """A call's NumPy arguments as a launch takes them: its limits, and tensors on the device.  In
    the interpreter the tensors lie on the arrays' own memory."""
    given = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            given[name] = on_device(host_tensor(value))
        elif isinstance(value, PackedWeight):
            from pyroclast_kernels.triton.weights import of_packed

            given[name] = of_packed(value)
    return limits_of(arguments), given


def call_of(launch: Launch, arguments: dict[str, Any]) -> Launched:
    """The launch on copies of the arguments that lie on the device."""
    limits, given = placed(arguments)
    return lambda: launch(limits, **given)


@cache
def _flush_buffer() -> Any:
    return torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device())


def events(n: int) -> list[Any]:
    """Device events that note the time."""
    return [torch.cuda.Event(enable_timing=True) for _ in range(n)]


def cold(call: Launched, seconds: float) -> Timed:
    """Times calls, each after a flush of the L2.  The first one compiles and is left out."""
    call()
    flush = _flush_buffer()
    beginning = flush[:_READ_BYTES].view(torch.int64)
    starts, ends = events(_BETWEEN_WAITS), events(_BETWEEN_WAITS)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < _MIN_SAMPLES or (
        time.perf_counter() < end and len(samples) < _MAX_SAMPLES
    ):
        for start, stop in zip(starts, ends, strict=True):
            flush.fill_(len(samples) % 251)
            beginning.sum()
            start.record()
            call()
            stop.record()
        torch.cuda.synchronize()
        samples += [1000.0 * s.elapsed_time(e) for s, e in zip(starts, ends, strict=True)]
    how = f"device events, L2 flushed by {FLUSH_BYTES >> 20} MiB"
    return Timed(tuple(samples), len(samples), how)


def replayed(call: Launched, once_us: float, seconds: float) -> Timed:
    """Times calls one after the other in a CUDA graph; a sample is a replay's time over its calls.
    once_us: about how long one takes."""
    n_calls = int(min(max(1.0, _GRAPH_US / max(once_us, 0.1)), _MAX_IN_GRAPH))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # scratch memory comes to be before the capture
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(n_calls):
            call()
    graph.replay()
    start, stop = events(2)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < _MIN_SAMPLES or (
        time.perf_counter() < end and len(samples) < _MAX_SAMPLES
    ):
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        samples.append(1000.0 * start.elapsed_time(stop) / n_calls)
    how = f"a CUDA graph of {n_calls} calls, replayed on the same tensors"
    return Timed(tuple(samples), len(samples) * n_calls, how)
