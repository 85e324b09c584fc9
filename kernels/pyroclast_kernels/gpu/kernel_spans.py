"""When the kernels of a program ran on the GPU, as CUPTI reports it through torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pyroclast_kernels.errors import KernelError


@dataclass(frozen=True)
class KernelSpan:
    """One kernel or copy on the device, in microseconds from an arbitrary start."""

    name: str
    begin_us: float
    end_us: float


def kernel_spans(run: Callable[[], object]) -> list[KernelSpan]:
    """What the device did while `run` ran, in order; a first run warms up.  KernelError, before
    any run, where there is no GPU, and after it where the profiler saw nothing."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    if not torch.cuda.is_available():
        raise KernelError("there is no GPU to profile")
    run()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
    spans = [
        KernelSpan(event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA
    ]
    if not spans:
        raise KernelError("the profiler saw nothing on the GPU")
    return sorted(spans, key=lambda span: (span.begin_us, span.end_us))
