"""What this machine can do at most, measured by the same threads in the same process.

A share of a datasheet's peak says little on a shared machine, so every benchmark measures its
ceilings itself: streaming reads of as many bytes as the weights have, by many access patterns, the
best of which counts; and multiply-adds on registers alone, for each kind of arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import features
from pyroclast_kernels.huge_pages import HUGE_PAGE, map_pages
from pyroclast_kernels.registry import CPP_LEVELS, cpp_kernels

_ARITHMETIC_ROUNDS = 2_000_000
_ARITHMETIC_BYTES = 12 * 64  # a vector of its own for each accumulator
# After the first time, only the best patterns are timed again: the machine's mood changes, and
# with it which one is the very best, but not by much.
_KEPT_PATTERNS = 6


@dataclass(frozen=True)
class ReadPattern:
    """How to read memory once, from end to end.

    page: 4096, or HUGE_PAGE where the system grants such pages.  n_streams: 1, 2, 4, 8 or 16 runs
    side by side in each thread.  distance: how many bytes ahead each prefetches, 0 for the
    hardware's own prefetching.  stripe: bytes that a thread reads before it skips what the others
    read; 0 for a range of its own, in parts_per_thread parts."""

    page: int
    n_streams: int
    distance: int
    stripe: int = 0
    parts_per_thread: int = 1

    def __str__(self) -> str:
        size = "2M" if self.page == HUGE_PAGE else "4K"
        how = f"{self.n_streams} streams, prefetch {self.distance}, {size} pages"
        if self.stripe:
            how += f", stripes of {self.stripe >> 10}K"
        return how if self.parts_per_thread == 1 else f"{how}, {self.parts_per_thread} parts"


READ_PATTERNS = (
    *(
        ReadPattern(page, n_streams, distance)
        for page, n_streams, distance in product(
            (4096, HUGE_PAGE), (1, 2, 4, 8, 16), (0, 512, 2048, 8192)
        )
    ),
    *(
        ReadPattern(HUGE_PAGE, n_streams, distance, stripe, parts)
        for n_streams, distance in ((1, 0), (1, 2048), (4, 0), (4, 2048))
        for stripe, parts in ((65536, 1), (1 << 20, 1), (0, 16))
    ),
)


def kernels() -> dict[str, int]:
    """Addresses of the ceiling kernels at the best level that runs here; empty without C++."""
    for level in CPP_LEVELS:
        table, _ = cpp_kernels(level)
        if table:
            found = {k.partition(".")[2]: v for k, v in table.items() if k.startswith("ceiling.")}
            return {k: v for k, v in found.items() if not features.why_not_beside_level(k)}
    return {}


def pages(n_bytes: int, page: int) -> NDArray[np.uint8]:
    """Zeros, each page its own, in pages of that size where the system grants them."""
    found = map_pages(n_bytes, huge=page == HUGE_PAGE)
    found[::4096] = 1  # a page that was never written is the one shared page of zeros
    return found


class CeilingMeter:
    """Measures on the threads of `executor`; n_bytes is how much one streaming pass reads."""

    def __init__(
        self, executor: Any, n_bytes: int, patterns: Iterable[ReadPattern] = READ_PATTERNS
    ) -> None:
        from pyroclast_kernels.program import native_program

        self._kernels, self._executor, self._make = kernels(), executor, native_program
        self._size = max(n_bytes, 1 << 20) // 4096 * 4096
        self._patterns = list(patterns)
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._sink = np.zeros(64, np.int64)

    def read_gbs(self, repeats: int = 3) -> tuple[float, str]:
        """(GB/s of the best streaming read, its pattern in words)."""
        speeds = dict.fromkeys(self._patterns, 0.0)
        for _ in range(repeats):  # in turn: a slow moment meets every pattern once at most
            for pattern, best in speeds.items():
                seconds = _seconds(self.reading(pattern)[0])
                speeds[pattern] = max(best, self._size / seconds / 1e9)
        self._patterns = sorted(speeds, key=lambda each: -speeds[each])[:_KEPT_PATTERNS]
        self._release()
        return speeds[self._patterns[0]], str(self._patterns[0])

    def reading(self, pattern: ReadPattern) -> tuple[Callable[[], object], NDArray[np.int64]]:
        """(Reads all once by that pattern, the sums of the words that each part then has read)."""
        data = self._pages(pattern.page)
        n_parts = self._executor.n_threads * pattern.parts_per_thread
        numbers = (self._size, pattern.n_streams, pattern.distance, pattern.stripe)
        return self._program("read", data, n_parts, *numbers), self._sink[:n_parts]

    def arithmetic_gops(self, kind: str, repeats: int = 3) -> float:
        """Peak of "fma", "vnni", "int8" (bytes without VNNI), "bf16" (dot products) or "amxbf16"
        (matrix registers) in Gop/s (a multiply-add is two); 0 where this machine has no such
        instruction."""
        if kind not in self._kernels:
            return 0.0
        n_threads: int = self._executor.n_threads
        data = np.ones(_ARITHMETIC_BYTES, np.uint8)
        run = self._program(kind, data, n_threads, _ARITHMETIC_ROUNDS, 0, 0, 0)
        ops_per_part = float(_ARITHMETIC_ROUNDS) * _OPS_PER_ROUND[kind]
        seconds = min(_seconds(run) for _ in range(repeats + 1))
        return ops_per_part * n_threads / seconds / 1e9

    def _pages(self, page: int) -> NDArray[np.uint8]:
        if page not in self._memory:
            self._memory[page] = pages(self._size, page)
        return self._memory[page]

    def _release(self) -> None:
        """Lets go of memory that no pattern is left to read."""
        wanted = {pattern.page for pattern in self._patterns}
        self._memory = {page: data for page, data in self._memory.items() if page in wanted}

    def _program(
        self, name: str, data: NDArray[np.uint8], n_parts: int, *numbers: int
    ) -> Callable[[], object]:
        slots = np.array([data.ctypes.data, self._sink.ctypes.data, *numbers], np.int64)
        program = self._make(self._executor, [self._kernels[name]], [slots.ctypes.data], [n_parts])

        def run() -> None:
            program.run()
            slots.size, data.size  # noqa: B018 - both live as long as the closure

        return run


# Operations of one round of each arithmetic kernel: 12 accumulators of 16 lanes, or 16 x 16 sums
# of 32 products.
_OPS_PER_ROUND = {"fma": 12 * 16 * 2, "vnni": 12 * 16 * 8, "bf16": 12 * 16 * 4}
_OPS_PER_ROUND["amxbf16"] = 16 * 16 * 32 * 2
_OPS_PER_ROUND["int8"] = _OPS_PER_ROUND["vnni"]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
