"""Memory in pages of 2 MiB, where the system grants them.

A stream of reads starts again in every page of 4 KiB: the CPU's prefetchers do not cross its end
(one token by q4_0 weights of 3072 x 576, cold, one Zen 4 core: 20 GB/s in small pages, 28 in huge
ones).
"""

from __future__ import annotations

import contextlib
import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

HUGE_PAGE = 2 << 20
ALIGN = 64
# A piece that does not fit a chunk's rest opens the next one; only what is written takes memory.
_CHUNK = 64 << 20


def map_pages(n_bytes: int, huge: bool = True) -> Bytes:
    """Zeros, aligned to HUGE_PAGE, in huge pages or expressly not; the view keeps the memory."""
    # Private: for shared memory, mmap's default, the system has a switch of its own, mostly off.
    memory = mmap.mmap(-1, n_bytes + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without huge pages has one size only
            memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    found = np.frombuffer(memory, np.uint8)
    start = -found.ctypes.data % HUGE_PAGE
    return found[start : start + n_bytes]


def untouched_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Like np.zeros, but a large array takes memory only where it is written, and gives all of it
    back when it is dropped.

    malloc does so until the first array of up to 32 MiB was freed; from then on it cuts arrays of
    that size from its heap, clears them, and keeps them: the cache of a model that was loaded again
    was resident as a whole, also after it was closed."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes < HUGE_PAGE:
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, n_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # The first stay small: a short text writes a little of each layer's cache, at its begin.
    if n_bytes >= 2 * HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE, HUGE_PAGE, n_bytes - HUGE_PAGE)
    array: NDArray[Any] = np.frombuffer(memory, dtype).reshape(shape)
    return array


class HugePages:
    """Arrays side by side in huge pages: matrices of a small model are shorter than one.  Each
    piece keeps its chunk alive."""

    def __init__(self) -> None:
        self._rest: Bytes = np.empty(0, np.uint8)

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
        """Like np.zeros, on a boundary of 64 bytes."""
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        size = -(-n_bytes // ALIGN) * ALIGN
        if size > _CHUNK:
            piece = map_pages(size)
        else:
            if size > len(self._rest):
                self._rest = map_pages(_CHUNK)
            piece, self._rest = self._rest[:size], self._rest[size:]
        array: NDArray[Any] = piece[:n_bytes].view(dtype).reshape(shape)
        return array
