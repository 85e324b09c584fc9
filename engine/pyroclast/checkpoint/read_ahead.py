"""Reads the next runs of a tensor's rows while the caller packs the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyroclast.checkpoint.tensor import Bytes, Scratch, Tensor

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# Two threads read a page cache faster than memory takes the packed weights.
_MAX_THREADS = 2


class ReadAhead:
    """Runs of rows, read by up to n_threads threads; in the caller's own where n_threads is 1, or
    where no thread can be started.  Use as a context manager: the threads end with it."""

    def __init__(self, n_threads: int) -> None:
        self._n_ahead = min(n_threads, _MAX_THREADS) if n_threads > 1 else 0
        self._pool: ThreadPoolExecutor | None = None
        self._own, self._free = Scratch(), list[Scratch]()

    def runs(self, tensor: Tensor) -> Iterator[tuple[int, Bytes]]:
        """(first row, rows) of each of `tensor.runs()`; the rows last until the next is taken."""
        ranges = tensor.runs()
        reads: deque[tuple[int, Scratch, Future[Bytes]]] = deque()
        for first, last in ranges:
            read = self._start(tensor, first, last) if len(ranges) > 1 else None
            if read is not None:
                reads.append((first, *read))
            while reads and (read is None or len(reads) > self._n_ahead):
                yield from self._take(reads)
            if read is None:
                yield first, tensor.rows(first, last, self._own)
        while reads:
            yield from self._take(reads)

    def _start(self, tensor: Tensor, first: int, last: int) -> tuple[Scratch, Future[Bytes]] | None:
        """Begins to read these rows; None where no thread can."""
        if not self._n_ahead:
            return None
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # late: most tensors are one run

            self._pool = ThreadPoolExecutor(self._n_ahead, "pyroclast-read")
        scratch = self._free.pop() if self._free else Scratch()
        try:
            return scratch, self._pool.submit(tensor.rows, first, last, scratch)
        except RuntimeError:  # no thread can be started: a limit of the process or its cgroup
            # The read waits in the pool nevertheless, so nobody else may have its scratch.
            self._n_ahead = 0
            return None

    def _take(
        self, reads: deque[tuple[int, Scratch, Future[Bytes]]]
    ) -> Iterator[tuple[int, Bytes]]:
        first, scratch, read = reads.popleft()
        yield first, read.result()
        self._free.append(scratch)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
