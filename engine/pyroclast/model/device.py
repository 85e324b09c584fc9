"""Which devices there are, why one cannot be used, and the GPU's memory.

Neither torch nor Triton is imported unless they can run here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pyroclast.errors import KernelError
from pyroclast.model.host_memory import available_bytes
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.triton import device as triton_device

DEVICES = ("auto", "cuda", "cpu")
SETTING = "PYROCLAST_DEVICE"  # of the environment: what "auto" stands for
# Of the memory that is free: graphs, compiled kernels and whoever else uses the GPU want some, too.
GPU_SHARE = 0.9
# Tokens of one step by default.  A GPU reads its weights once a step and wants many tokens for it.
MAX_BATCH_TOKENS = {"cpu": 512, "cuda": 2048}


def check_device(device: str) -> str:
    """The device that is asked for, "auto" replaced by what the environment says; KernelError
    lists those that there are."""
    if device == "auto":
        device = os.environ.get(SETTING, "") or "auto"
    if device not in DEVICES:
        known = ", ".join(map(repr, DEVICES))
        raise KernelError(f"device must be one of {known}, got {device!r}")
    return device


def why_not_cuda() -> str:
    """Why no model can run on a GPU here; empty where one can, be it in Triton's interpreter."""
    return triton_device.why_not()


def why_not_chosen(threads: int | None = None) -> str:
    """Why "auto" does not even try the GPU; empty where it does."""
    if reason := why_not_cuda():
        return reason
    if triton_device.INTERPRETED:
        return "TRITON_INTERPRET=1: the CPU's own kernels are faster than Triton's interpreter"
    return "" if threads is None else f"threads={threads} asks for the CPU"


@contextmanager
def kernel_errors() -> Iterator[None]:
    """The kernel library's errors as ours."""
    try:
        yield
    except KernelLibraryError as error:
        raise KernelError(str(error)) from error


def gpu_memory() -> tuple[int, int]:
    """Bytes of the GPU that are free, and all it has; of the host, in Triton's interpreter.
    KernelError if the driver fails."""
    if triton_device.INTERPRETED:
        return available_bytes(), available_bytes()
    from pyroclast_kernels.gpu.memory import free_bytes

    try:
        return free_bytes()
    except RuntimeError as error:
        raise KernelError(f"the GPU's driver failed: {error}") from error


def size(n_bytes: int) -> str:
    """For people: 1.50 GiB, 12 MiB, 4 KiB."""
    if n_bytes >= 1 << 30:
        return f"{n_bytes / 2**30:.2f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes >= 1 << 20 else f"{-(-n_bytes // 1024)} KiB"
