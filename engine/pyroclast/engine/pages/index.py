"""Where pages lie in files, and how a run of them gets into the cache."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pyroclast.engine.pages.record import Page, PageError, PageFormat, checksum_of

T = TypeVar("T")
log = logging.getLogger("pyroclast")

_MAX_BUFFERS = os.sysconf("SC_IOV_MAX")  # of one read


class Place(NamedTuple):
    """Where the record of a page begins, and the header that it has there."""

    path: Path
    offset: int
    header: bytes
    page: Page
    checksum: int


class PageIndex:
    """The pages of some files by key.  block_arrays: the arrays of a block of the cache, which
    n_threads threads fill in place.  The thread of the steps reads it; the writer's may add to
    it."""

    def __init__(
        self, format: PageFormat, block_arrays: Callable[[int], Sequence[Any]], n_threads: int = 1
    ) -> None:
        self.format, self._block_arrays, self._n_threads = format, block_arrays, n_threads
        self._places: dict[bytes, Place] = {}
        self._told: set[tuple[Path, str]] = set()
        self.n_read = 0  # pages

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def add(self, place: Place) -> None:
        """The first page of a key stays."""
        self._places.setdefault(place.page.key, place)

    def forget(self, keys: Iterable[bytes]) -> None:
        """Pages that shall not be read any more."""
        for key in keys:
            self._places.pop(key, None)

    def add_records(self, path: Path, descriptor: int, offset: int, size: int) -> int:
        """Adds the whole records of an open file from `offset` on; returns where the next begins.
        Those with a damaged header are passed over: records have one size."""
        format, reason, n_bad = self.format, "", 0
        while offset + format.record_bytes <= size:
            raw = os.pread(descriptor, format.record_header_bytes, offset)
            try:
                self.add(Place(path, offset, raw, *format.read_record(raw)))
            except PageError as error:
                reason, n_bad = str(error), n_bad + 1
            offset += format.record_bytes
        if n_bad:
            self.warn(path, f"{n_bad} {format.noun}s in it are ignored: {reason}")
        return offset

    def chain(self, root: bytes, pages: Sequence[tuple[bytes, bytes]]) -> list[Place]:
        """The places of the first pages (key, ids) of a text, as far as there are any.  Every id
        from the first page on is compared, so another text with equal hashes is not found."""
        found: list[Place] = []
        parent = b""
        for key, ids in pages:
            place = self.find(Page(root, parent, key, ids))
            if place is None:
                break
            found.append(place)
            parent = key
        return found

    def load(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]], first: int, blocks: Sequence[int]
    ) -> int:
        """Reads the pages of a text from number `first` on into the blocks of the same numbers;
        returns how many.  What is not good is zeroed, and not found again."""
        places, done = self.chain(root, pages), first
        while done < len(places):
            run = _in_one_file(places[done:])
            n_good = self._read(
                run, [self._block_arrays(b) for b in blocks[done : done + len(run)]]
            )
            done += n_good
            if n_good < len(run):
                break
        n_loaded = max(0, done - first)
        self.n_read += n_loaded
        return n_loaded

    def find(self, page: Page) -> Place | None:
        """Where the page with this very text lies, if there is one."""
        place = self._places.get(page.key)
        return place if place is not None and place.page == page else None

    def load_one(self, page: Page, block: int) -> bool:
        """Reads one page into a block, if there is one; what is not good is zeroed, and not found
        again."""
        place = self.find(page)
        if place is None or not self._read([place], [self._block_arrays(block)]):
            return False
        self.n_read += 1
        return True

    def close(self) -> None:
        """Lets go of the cache's arrays: no page is read from here on."""
        self._places.clear()
        self._block_arrays = lambda _: []

    def warn(self, path: Path, why: str) -> None:
        """One line for each file and reason."""
        if (path, why) not in self._told:
            self._told.add((path, why))
            log.warning("cached pages: %s: %s", path, why)

    def _read(self, run: list[Place], blocks: Sequence[Sequence[Any]]) -> int:
        """Records of one file into blocks: how many of them, from the first on, are the pages that
        they were."""
        headers = [bytearray(len(place.header)) for place in run]
        n_good = 0
        try:
            n_whole = self._read_file(run, [[h, *b] for h, b in zip(headers, blocks, strict=True)])
            checksums = _in_threads(self._n_threads, checksum_of, blocks[:n_whole])
            for place, header, checksum in zip(run, headers, checksums, strict=False):
                if header != place.header or checksum != place.checksum:
                    break
                n_good += 1
            if n_good < len(run):
                bad = run[n_good]
                where = f"the {self.format.noun} at byte {bad.offset}"
                self.warn(bad.path, f"{where} is damaged, and ignored")
        except FileNotFoundError:  # dropped to make room
            pass
        except OSError as error:
            self.warn(run[0].path, f"cannot be read: {error.strerror}")
        finally:
            # Whatever came instead may hold a NaN, which would outlive it.
            for block in blocks[n_good:]:
                for array in block:
                    array[...] = 0
        self.forget(place.page.key for place in run[n_good:])
        return n_good

    def _read_file(self, run: list[Place], pages: list[list[Any]]) -> int:
        """Fills the buffers of each page from where it lies; returns how many pages were whole.

        Each thread reads its share of the layers: memory of the cache is mostly touched here for
        the first time, which takes the kernel longer than the read (60 huge pages, zeroed one by
        one: 0.18 s for 2,000 tokens of the 135M, of 0.20)."""
        n_buffers = len(pages[0])
        n_shares = max(self._n_threads, -(-n_buffers // _MAX_BUFFERS))
        ends = [n_buffers * i // n_shares for i in range(n_shares + 1)]
        descriptor = os.open(run[0].path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            read = partial(_read_share, descriptor, run, pages)
            return min(_in_threads(self._n_threads, read, ends, ends[1:]))
        finally:
            os.close(descriptor)


def _read_share(
    descriptor: int, run: list[Place], pages: list[list[Any]], first: int, end: int
) -> int:
    """Fills buffers [first, end) of each page; returns how many pages had them whole."""
    sizes = [memoryview(buffer).nbytes for buffer in pages[0]]
    start, n_bytes = sum(sizes[:first]), sum(sizes[first:end])
    for i, (place, buffers) in enumerate(zip(run, pages, strict=True)):
        if n_bytes and os.preadv(descriptor, buffers[first:end], place.offset + start) != n_bytes:
            return i
    return len(run)


def _in_threads(n_threads: int, work: Callable[..., T], *items: Sequence[Any]) -> list[T]:
    """As map: reads and checksums let go of the GIL.  Where no thread can be started, as when the
    interpreter ends, this one does it all."""
    if n_threads > 1:
        with suppress(RuntimeError), ThreadPoolExecutor(n_threads) as threads:
            begun: list[Future[T]] = []
            try:
                begun.extend(threads.submit(work, *each) for each in zip(*items, strict=False))
                return [each.result() for each in begun]
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                _wait_for(begun)
    return list(map(work, *items))


def _wait_for(begun: Sequence[Future[T]]) -> None:
    """Waits even where Ctrl-C is pressed again meanwhile: what a read still wrote would be in
    blocks that belong to others by then.  (An interrupted `join` takes its thread for ended.)"""
    interrupted: KeyboardInterrupt | None = None
    while rest := [each for each in begun if not each.done()]:
        try:
            wait(rest)
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


def _in_one_file(places: list[Place]) -> list[Place]:
    """Those at the beginning that lie in the file of the first."""
    return list(takewhile(lambda place: place.path == places[0].path, places))
