"""The disk below the prefix cache: pages of `cache_dir`, read when a prompt needs them and written
when a request has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pyroclast.engine.pages.folder import PageFolder
from pyroclast.engine.pages.index import PageIndex
from pyroclast.engine.pages.record import MAX_ROOT_BYTES, PageFormat
from pyroclast.engine.pages.writer import Kept, PageThread, PageWriter

_SCAN_EVERY_S = 1.0  # for what other processes have written


class DiskTier:
    """Pages of one identity in a folder.  block_arrays, n_threads: see PageIndex."""

    state = None  # pages come without the states of recurrent layers

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        format: PageFormat,
        block_arrays: Callable[[int], list[Any]],
        n_threads: int,
    ) -> None:
        self._folder = PageFolder(folder, format, max_bytes)
        self.index = PageIndex(format, block_arrays, n_threads)
        self._folder.scan(self.index)
        self._scanned_s = time.monotonic()
        self._writer = PageWriter(self._folder, self.index, block_arrays)
        writer = self._writer
        self._thread: PageThread[Kept] = PageThread(writer.write, writer.close, writer.renew)

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

    def offer(self, pages: Iterable[Kept]) -> None:
        """Has those written that are not on disk; what is too much for the thread is left out."""
        queued = self._writer.queued
        for kept in pages:
            key = kept.page.key
            if key in self.index or key in queued or len(kept.page.root) > MAX_ROOT_BYTES:
                continue
            queued.add(key)
            if not self._thread.put(kept):
                queued.discard(key)
                return

    def forget(self, keys: Iterable[bytes]) -> None:
        """Pages that shall not be read any more."""
        self.index.forget(keys)

    def close(self) -> None:
        """Waits for what is being written, some seconds at most."""
        self._thread.close()

    def _look_again(self) -> None:
        now_s = time.monotonic()
        if now_s - self._scanned_s > _SCAN_EVERY_S:
            self._folder.scan(self.index)
            self._scanned_s = now_s
