"""The disk below the prefix cache: pages of `cache_dir`, and snapshots of recurrent layers' states,
read when a prompt needs them and written when a request has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pyroclast.engine.pages.folder import Bound, PageFolder, bound_for
from pyroclast.engine.pages.index import PageIndex
from pyroclast.engine.pages.record import MAX_ROOT_BYTES, PageFormat, text_of_snapshot
from pyroclast.engine.pages.writer import Kept, PageThread, PageWriter

Arrays = Callable[[int], Sequence[Any]]

_SCAN_EVERY_S = 1.0  # for what other processes have written


class Store:
    """Records of one format in a folder: those that there are, and the writer of more.  arrays:
    those of a block or of a slot, which the records fill."""

    def __init__(
        self, folder: Path, format: PageFormat, bound: Bound, arrays: Arrays, n_threads: int
    ) -> None:
        self._folder = PageFolder(folder, format, bound)
        self.index = PageIndex(format, arrays, n_threads)
        self.writer = PageWriter(self._folder, self.index, arrays)
        self.scan()

    def scan(self) -> None:
        """Adds what others have written since the last time."""
        self._folder.scan(self.index)

    def lacks(self, kept: Kept) -> bool:
        """Whether it is neither on disk nor on its way there, and can be."""
        key = kept.page.key
        is_known = key in self.index or key in self.writer.queued
        return not is_known and len(kept.page.root) <= MAX_ROOT_BYTES


class DiskTier:
    """Pages of one identity in a folder, and snapshots where format has states.  block_arrays,
    n_threads: see PageIndex; slot_arrays: the same for a slot of the state cache."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        format: PageFormat,
        block_arrays: Arrays,
        n_threads: int,
        slot_arrays: Arrays = lambda _: [],
    ) -> None:
        snapshots = format.snapshots
        bound = bound_for(max_bytes, [format] if snapshots is None else [format, snapshots])
        self._pages = Store(folder, format, bound, block_arrays, n_threads)
        self._snapshots = (
            None if snapshots is None else Store(folder, snapshots, bound, slot_arrays, n_threads)
        )
        self._stores = [s for s in (self._pages, self._snapshots) if s is not None]
        self.index = self._pages.index
        self._scanned_s = time.monotonic()
        writers = _Writers([store.writer for store in self._stores])
        self._thread: PageThread[tuple[PageWriter, Kept]] = PageThread(
            writers.write, writers.close, writers.renew
        )

    @property
    def n_read(self) -> int:
        """Pages read so far."""
        return self.index.n_read

    def load(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]], first: int, blocks: Sequence[int]
    ) -> int:
        """See PageIndex.load."""
        if len(self.index.chain(root, pages)) < len(pages):
            self._look_again()
        return self.index.load(root, pages, first, blocks)

    def find_states(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]]
    ) -> tuple[int, list[int]]:
        """See Tier."""
        found = self._find_states(root, pages)
        if len(pages) not in found[1] and self._look_again():
            found = self._find_states(root, pages)
        return found

    def load_state(self, root: bytes, pages: Sequence[tuple[bytes, bytes]], slot: int) -> bool:
        """See Tier."""
        snapshots = self._snapshots
        return snapshots is not None and snapshots.index.load_one(
            text_of_snapshot(root, pages), slot
        )

    def offer(self, pages: Iterable[Kept], states: Iterable[Kept]) -> None:
        """Has those written that are not on disk; what is too much for the thread is left out.
        States go first: a text that runs takes the slot of one sooner than all of its blocks."""
        if self._snapshots is None or self._offer(self._snapshots, states):
            self._offer(self._pages, pages)

    def forget(self, keys: Iterable[bytes]) -> None:
        """Pages that shall not be read any more, and the states behind them."""
        keys = list(keys)
        for store in self._stores:
            store.writer.forget(keys)

    def close(self) -> None:
        """Waits for what is being written, some seconds at most."""
        self._thread.close()
        for store in self._stores:
            store.index.close()

    def _find_states(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]]
    ) -> tuple[int, list[int]]:
        n_found = len(self.index.chain(root, pages))
        if self._snapshots is None:
            return n_found, []
        index = self._snapshots.index
        return n_found, [
            n
            for n in range(n_found, 0, -1)
            if pages[n - 1][0] in index and index.find(text_of_snapshot(root, pages[:n]))
        ]

    def _offer(self, store: Store, records: Iterable[Kept]) -> bool:
        """False if the thread has too much to write already."""
        queued = store.writer.queued
        for kept in records:
            if store.lacks(kept):
                queued.add(kept.page.key)
                if not self._thread.put((store.writer, kept)):
                    queued.discard(kept.page.key)
                    return False
        return True

    def _look_again(self) -> bool:
        """Whether it was time to look what other processes have written."""
        now_s = time.monotonic()
        if is_time := now_s - self._scanned_s > _SCAN_EVERY_S:
            for store in self._stores:
                store.scan()
            self._scanned_s = now_s
        return is_time


class _Writers:
    """The writers of all formats, in one thread.  It knows nothing of the tier, which must be able
    to go while the thread waits."""

    def __init__(self, writers: Sequence[PageWriter]) -> None:
        self._writers = writers

    def write(self, job: tuple[PageWriter, Kept]) -> None:
        """Where one of them has failed, all end: pages are of no use without their states."""
        writer, kept = job
        if any(each.has_failed for each in self._writers):
            writer.drop(kept.page.key)
        else:
            writer.write(kept)

    def close(self) -> None:
        for each in self._writers:
            each.end()

    def renew(self) -> None:
        for each in self._writers:
            each.renew()
