"""What this machine can do at most, measured by the same threads in the same process.

A share of a datasheet's peak says little on a shared machine, so every benchmark measures its
ceilings itself: streaming reads of as many bytes as the weights have, by several access patterns,
the best of which counts; and multiply-adds on registers alone, for each kind of arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pyroclast_kernels.matmul.packing import HUGE_PAGE
from pyroclast_kernels.registry import CPP_LEVELS, cpp_kernels

# (streams per part, software prefetch distance in bytes)
READ_PATTERNS = ((1, 0), (1, 4096), (4, 0), (4, 1024), (8, 2048))
_ARITHMETIC_ROUNDS = 2_000_000


def kernels() -> dict[str, int]:
    """Addresses of the ceiling kernels at the best level that runs here; empty without C++."""
    for level in CPP_LEVELS:
        table, _ = cpp_kernels(level)
        if table:
            return {k.partition(".")[2]: v for k, v in table.items() if k.startswith("ceiling.")}
    return {}


class Ceilings:
    """Measures on the threads of `executor`; bytes is how much one streaming pass reads."""

    def __init__(self, executor: Any, n_bytes: int) -> None:
        from pyroclast_kernels.program import native_program

        self._kernels, self._executor, self._make = kernels(), executor, native_program
        size = max(n_bytes, 1 << 20) // 4096 * 4096
        # Written once, so that every page is its own and not the shared page of zeros.
        memory = np.ones(size + HUGE_PAGE, np.uint8)
        start = -memory.ctypes.data % HUGE_PAGE
        self._data = memory[start : start + size]
        self._sink = np.zeros(64, np.int64)

    def read_gbs(self, repeats: int = 3) -> tuple[float, str]:
        """(GB/s of the best streaming read, "<streams>x prefetch <bytes>")."""
        best, name = 0.0, "none"
        for n_streams, distance in READ_PATTERNS:
            run = self._program("read", self._data, self._data.size, n_streams, distance)
            for _ in range(repeats):
                gbs = self._data.size / _seconds(run) / 1e9
                if gbs > best:
                    best, name = gbs, f"{n_streams} streams, prefetch {distance}"
        return best, name

    def arithmetic_gops(self, kind: str, repeats: int = 3) -> float:
        """Peak of "fma", "vnni" or "bf16" in Gop/s (a multiply-add is two); 0 where the CPU has
        no such instruction."""
        if kind not in self._kernels:
            return 0.0
        run = self._program(kind, self._data, _ARITHMETIC_ROUNDS, 0, 0)
        ops_per_part = float(_ARITHMETIC_ROUNDS) * _OPS_PER_ROUND[kind]
        seconds = min(_seconds(run) for _ in range(repeats + 1))
        n_threads: int = self._executor.n_threads
        return ops_per_part * n_threads / seconds / 1e9

    def _program(self, name: str, data: Any, *numbers: int) -> Callable[[], object]:
        slots = np.array([data.ctypes.data, self._sink.ctypes.data, *numbers], np.int64)
        program = self._make(
            self._executor, [self._kernels[name]], [slots.ctypes.data], [self._executor.n_threads]
        )

        def run() -> None:
            program.run()
            slots.size  # noqa: B018 - keeps the argument struct alive as long as the closure

        return run


# Operations of one round of each arithmetic kernel: 12 accumulators of 16 lanes.
_OPS_PER_ROUND = {"fma": 12 * 16 * 2, "vnni": 12 * 16 * 8, "bf16": 12 * 16 * 4}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
