"""Where Triton's kernels run: on the GPU, or on the CPU in Triton's own interpreter.

TRITON_INTERPRET=1, set before the process starts, chooses the interpreter: every kernel runs as
NumPy calls, one program after the other.  Slow, and exact enough to test with.
Neither torch nor triton is imported before it is needed.
"""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from pyroclast_kernels.errors import KernelError

if TYPE_CHECKING:
    import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
OLDEST = {"torch": (2, 8), "triton": (3, 4)}
# Partial sums and what kernels of one step share; steps of many tokens split nothing.
SCRATCH_BYTES = 64 << 20
N_COUNTERS = 1 << 16
_HINT = "TRITON_INTERPRET=1 runs Triton's kernels on the CPU, slowly"


@cache
def why_not() -> str:
    """Why Triton's kernels cannot run here; empty where they can."""
    if not INTERPRETED and not _has_driver():
        return f"no NVIDIA driver (libcuda.so.1); {_HINT}"
    # Late: it takes longer to import than the driver to be missed, on most machines.
    import importlib.metadata

    for package, oldest in OLDEST.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return f"{package} is not installed: pip install 'pyroclast-lm[gpu]'"
        if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < oldest:
            needed = ".".join(map(str, oldest))
            return f"{package} {version} is too old, {needed} is needed: pip install -U {package}"
    return "" if INTERPRETED else _why_no_gpu()


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _why_no_gpu() -> str:
    """Asks the driver itself, which takes milliseconds; importing torch takes seconds."""
    import importlib.metadata

    if "+cpu" in importlib.metadata.version("torch"):
        return f"this torch is a build without CUDA; {_HINT}"
    driver = ctypes.CDLL("libcuda.so.1")
    n_devices = ctypes.c_int()
    for call, arguments in (("cuInit", (0,)), ("cuDeviceGetCount", (ctypes.byref(n_devices),))):
        if code := getattr(driver, call)(*arguments):
            return f"the NVIDIA driver failed ({call} returned {code}); nvidia-smi may say more"
    return "" if n_devices.value else f"the NVIDIA driver finds no GPU; {_HINT}"


@cache
def device() -> torch.device:
    """The device; KernelError where there is none."""
    if reason := why_not():
        raise KernelError(f"Triton's kernels cannot run here: {reason}")
    import torch

    return torch.device("cpu" if INTERPRETED else "cuda")


@cache
def dot_dtype(format: str) -> Any:
    """The type in which 16-bit operands enter tl.dot: their own on a GPU.  The interpreter of
    Triton 3.6 multiplies the bit patterns of bfloat16, so there they enter as float32, which
    holds the same values."""
    import triton.language as tl

    if INTERPRETED or format == "f32":
        return tl.float32
    return {"bf16": tl.bfloat16, "f16": tl.float16}[format]


@cache
def scratch() -> torch.Tensor:
    """uint8 (SCRATCH_BYTES,) that the kernels of a step use one after the other."""
    import torch

    return torch.empty(SCRATCH_BYTES, dtype=torch.uint8, device=device())


@cache
def counters() -> torch.Tensor:
    """int32 (N_COUNTERS,), zero between kernels: who arrives last puts its counter back."""
    import torch

    return torch.zeros(N_COUNTERS, dtype=torch.int32, device=device())
