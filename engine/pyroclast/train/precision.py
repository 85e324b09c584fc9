"""The precision of a run's matrix products: float32, or bfloat16 where the CPU is faster at it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pyroclast.train.extra import needed
from pyroclast_kernels.features import cpu_flags

_FLAGS = ("avx512_bf16", "amx_bf16")


def autocast(precision: str) -> AbstractContextManager[Any]:
    """A context in which products have that precision; weights and sums stay float32."""
    torch = needed("torch")
    context: AbstractContextManager[Any] = torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"
    )
    return context


def chosen_precision(wanted: str, trial: Callable[[str], None]) -> str:
    """`wanted`, or for "auto" the one in which the trial step is faster."""
    if wanted != "auto":
        return wanted
    if not cpu_flags().intersection(_FLAGS):
        return "float32"
    seconds = {}
    for precision in ("float32", "bfloat16"):
        trial(precision)  # the first one allocates
        started_s = time.perf_counter()
        trial(precision)
        seconds[precision] = time.perf_counter() - started_s
    return min(seconds, key=lambda each: seconds[each])
