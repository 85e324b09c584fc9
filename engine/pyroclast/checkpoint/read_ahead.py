"""Reads the next runs of a tensor's rows while the caller packs the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pyroclast.checkpoint.tensor import Bytes, Scratch, Tensor

# So many threads read a page cache faster than memory takes the packed weights.
_MAX_THREADS = 3


class ReadAhead:
    """Runs of rows, read by up to n_threads threads; in the caller's own where n_threads is 1, or
    where no thread can be started.  Use as a context manager: the threads end with it."""

    def __init__(self, n_threads: int) -> None:
        self._n_ahead = min(n_threads, _MAX_THREADS) if n_threads > 1 else 0
        self._pool = ThreadPoolExecutor(max(1, self._n_ahead), "pyroclast-read")
        self._free: list[Scratch] = []

    def runs(self, tensor: Tensor) -> Iterator[tuple[int, Bytes]]:
        """(first row, rows) of each of `tensor.runs()`; the rows last until the next is taken."""
        ranges = tensor.runs()
        n_ahead = self._n_ahead if len(ranges) > 1 else 0
        reads: deque[tuple[int, Scratch, Future[Bytes]]] = deque()
        for first, last in ranges:
            scratch = self._free.pop() if self._free else Scratch()
            reads.append((first, scratch, self._start(tensor, first, last, scratch, n_ahead)))
            if len(reads) > n_ahead:
                yield from self._take(reads)
        while reads:
            yield from self._take(reads)

    def _start(
        self, tensor: Tensor, first: int, last: int, scratch: Scratch, n_ahead: int
    ) -> Future[Bytes]:
        if n_ahead:
            try:
                return self._pool.submit(tensor.rows, first, last, scratch)
            except RuntimeError:  # no thread can be started: a limit of the process or its cgroup
                self._n_ahead = 0
        done: Future[Bytes] = Future()
        done.set_result(tensor.rows(first, last, scratch))
        return done

    def _take(
        self, reads: deque[tuple[int, Scratch, Future[Bytes]]]
    ) -> Iterator[tuple[int, Bytes]]:
        first, scratch, read = reads.popleft()
        yield first, read.result()
        self._free.append(scratch)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
