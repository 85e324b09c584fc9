"""The thread that writes pages: apart from the steps, and of no consequence if it is lost.

It is a daemon that starts with the first page, and ends with its owner.  An interpreter that ends
waits for it, for a few seconds at most.  The child of a fork has none, and starts its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np

from pyroclast.engine.pages.folder import PageFolder, Segment
from pyroclast.engine.pages.index import PageIndex, Place
from pyroclast.engine.pages.record import Page, checksum_of
from pyroclast.errors import CacheFileError

T = TypeVar("T")
log = logging.getLogger("pyroclast")

_MAX_QUEUED = 4096
_MAX_WAIT_S = 10.0
_NICENESS = 10  # steps go first


class PageThread(Generic[T]):
    """Calls `write` for each thing that is put, in order, in a thread of its own, and `end` at its
    end.  renew: called in the child of a fork."""

    def __init__(
        self, write: Callable[[T], None], end: Callable[[], None], renew: Callable[[], None]
    ) -> None:
        self._write, self._end, self._renew = write, end, renew
        self._closed = False
        self._reset()
        _threads.add(self)

    def _reset(self) -> None:
        self._jobs: SimpleQueue[T | None] = SimpleQueue()
        self._ended = threading.Event()
        self._started = False
        # A finalizer must not wait, and may run anywhere: it only tells the thread.
        self._finalizer = weakref.finalize(self, self._jobs.put, None)
        self._finalizer.atexit = False

    def put(self, job: T) -> bool:
        """Queues it, unless too much waits already."""
        if self._closed or self._jobs.qsize() >= _MAX_QUEUED:
            return False
        if not self._started:
            work = (self._jobs, self._write, self._end, self._ended)
            thread = threading.Thread(target=_work, args=work, name="pyroclast-pages", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._closed = True
                log.warning("cached pages: none are written: no thread can be started (%s)", error)
                return False
            self._started = True
        self._jobs.put(job)
        return True

    def close(self, timeout_s: float = _MAX_WAIT_S) -> None:
        """Waits until all is written, so long at most; harmless when repeated."""
        self._closed = True
        if self._started:
            self._jobs.put(None)
            self._ended.wait(timeout_s)
        else:
            self._end()

    def renew(self) -> None:
        """In the child of a fork: the thread is not here, and what waited is the parent's."""
        self._finalizer.detach()
        self._reset()
        self._renew()


def _work(
    jobs: SimpleQueue[Any],
    write: Callable[[Any], None],
    end: Callable[[], None],
    ended: threading.Event,
) -> None:
    try:
        with suppress(OSError):  # of this thread only
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while (job := jobs.get()) is not None:
            write(job)
    finally:
        end()
        ended.set()


_threads: weakref.WeakSet[PageThread[Any]] = weakref.WeakSet()


def _end_all() -> None:
    for thread in list(_threads):
        thread.close()


def _renew_all() -> None:
    for thread in list(_threads):
        thread.renew()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_renew_all)


class Kept:
    """A page that is in the cache: its text, its block, and whether it is still there.  Or a
    snapshot, with a slot of the state cache as its block."""

    __slots__ = ("block", "is_there", "page")

    def __init__(self, page: Page, block: int, is_there: Callable[[], bool]) -> None:
        self.page, self.block, self.is_there = page, block, is_there

    def copy_to(self, buffer: bytearray, block_arrays: Callable[[int], Sequence[Any]]) -> bool:
        """Copies what is in it; False if it was evicted meanwhile.  Full blocks and the states that
        the cache keeps do not change, and leave the cache before their place gets another owner: so
        what was there after the copy was there all the time, and nobody has to wait."""
        end = 0
        for array in block_arrays(self.block):
            start, end = end, end + array.nbytes
            buffer[start:end] = array.reshape(-1).view(np.uint8).data
        return self.is_there()


class PageWriter:
    """Writes pages into segments of `folder`; what the thread does."""

    def __init__(
        self, folder: PageFolder, index: PageIndex, block_arrays: Callable[[int], Sequence[Any]]
    ) -> None:
        self._folder, self._index, self._block_arrays = folder, index, block_arrays
        self._format = index.format
        self._buffer = bytearray(self._format.identity.page_bytes)
        self._segment: Segment | None = None
        self.has_failed = False
        self.queued: set[bytes] = set()  # keys of pages that wait, or are being written
        self._unwanted: set[bytes] = set()  # of these, what shall not be read
        self._lock = threading.Lock()  # around what is unwanted and what is found

    def forget(self, keys: Sequence[bytes]) -> None:
        """Pages that shall not be read any more; nor one of them that is being written."""
        with self._lock:
            self._index.forget(keys)
            self._unwanted |= self.queued.intersection(keys)

    def write(self, kept: Kept) -> None:
        """Appends a page or snapshot.  The first error is told, and ends the writing."""
        page = kept.page
        try:
            if self.has_failed or not kept.copy_to(self._buffer, self._block_arrays):
                return
            checksum = checksum_of([self._buffer])
            header = self._format.record_header(page, checksum)
            segment = self._room()
            offset = segment.append([header, self._buffer])
            self._note(Place(segment.path, offset, header, page, checksum))
        except (OSError, CacheFileError) as error:
            self.has_failed = True
            why = error.strerror if isinstance(error, OSError) else None
            log.warning("cached pages: no more are written: %s", why or error)
            self.close()
        finally:
            self.drop(page.key)

    def drop(self, key: bytes) -> None:
        """The page of this key is not on its way any more."""
        with self._lock:
            self.queued.discard(key)
            self._unwanted.discard(key)

    def _note(self, place: Place) -> None:
        """The page can be found, unless it was forgotten while it was written: until the copy was
        whole it was in the cache, and nothing was there to forget."""
        with self._lock:
            if place.page.key not in self._unwanted:
                self._index.add(place)

    def _room(self) -> Segment:
        """A segment with room for a page."""
        n_bytes = self._format.record_bytes
        if self._segment and self._segment.n_bytes + n_bytes > self._folder.segment_bytes:
            self.close()
        if self._segment is None:
            self._segment = self._folder.new_segment()
        return self._segment

    def end(self) -> None:
        """Nothing is written from here on: lets go of the segment and of the cache's arrays."""
        self.close()
        self.has_ended, self._block_arrays = True, lambda _: []

    def close(self) -> None:
        """Gives the segment up."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def renew(self) -> None:
        """In the child of a fork: the segment is the parent's."""
        self.close()  # of this process's descriptor: the parent's keeps the lock
        self.queued.clear()
        self._unwanted.clear()
        self._lock = threading.Lock()  # the thread may have held it
