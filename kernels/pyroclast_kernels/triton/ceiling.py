"""What the GPU can do: the rate of a large copy and of a large BF16 product, and what it is.

Both through PyTorch, on random data: zeros take less power, and the clock rises.  In the
interpreter the same code runs on the CPU, on small arrays: to see that it runs, no more.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pyroclast_kernels.triton.device import INTERPRETED, device

_COPY_BYTES = 1 << 22 if INTERPRETED else 2 << 30  # many times the L2
_N_SQUARE = 64 if INTERPRETED else 8192
_ROUNDS = 5
_PRODUCTS = 10  # in a round: the rate at the clock that many products in a row sustain


@dataclass(frozen=True)
class GpuCeiling:
    """The best of several rounds.  kind "copy": bytes read and written, in GB/s, n_bytes each;
    "matmul": a product of BF16 matrices, in Gop/s, a multiply-add being two operations."""

    kind: str
    value: float
    unit: str
    n_bytes: int
    how: str


def about() -> dict[str, Any]:
    """Name and sizes of the device, and the versions of what drives it."""
    found = {"torch": torch.__version__, "triton": importlib.metadata.version("triton")}
    if INTERPRETED:
        return {"name": "Triton's interpreter", "isa": "interpreter", "l2_bytes": 0, **found}
    properties = torch.cuda.get_device_properties(device())
    return {
        "name": properties.name,
        "isa": f"sm_{properties.major}{properties.minor}",
        "n_multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        **found,
    }


def elapsed_s(work: Callable[[], Any]) -> float:
    """Seconds on the device, between two events; in the interpreter, wall time on the CPU."""
    if INTERPRETED:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    stop.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(stop)) / 1000.0


def copy_rate() -> GpuCeiling:
    """Measures a large copy on the device."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device()).random_()
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(elapsed_s(lambda: target.copy_(source)) for _ in range(2 * _ROUNDS))
    how = f"best of {2 * _ROUNDS} copies on the device, bytes read and written"
    return GpuCeiling("copy", 2 * _COPY_BYTES / best / 1e9, "GB/s", _COPY_BYTES, how)


def matmul_rate() -> GpuCeiling:
    """Measures torch.matmul on two square matrices."""
    shape, where = (_N_SQUARE, _N_SQUARE), device()
    a, b = (torch.randn(shape, dtype=torch.bfloat16, device=where) for _ in range(2))
    out = torch.empty_like(a)

    def products() -> None:
        for _ in range(_PRODUCTS):
            torch.matmul(a, b, out=out)

    products()
    times = [elapsed_s(products) / _PRODUCTS for _ in range(_ROUNDS)]
    how = (
        f"best mean of {_PRODUCTS} products of {_N_SQUARE} x {_N_SQUARE}, normal deviates; the "
        f"median of {_ROUNDS} such means is {_gops(statistics.median(times)):.0f}"
    )
    return GpuCeiling("matmul", _gops(min(times)), "Gop/s", 0, how)


def _gops(seconds: float) -> float:
    return 2.0 * _N_SQUARE**3 / seconds / 1e9


def measure() -> list[dict[str, Any]]:
    """Measures both ceilings; plain data, for JSON."""
    return [asdict(copy_rate()), asdict(matmul_rate())]
