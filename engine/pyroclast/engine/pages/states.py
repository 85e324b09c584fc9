"""One prompt's pages in one file: saved, and taken into the prefix cache again.

Such a file is trusted as little as a model file: every byte is checked before a page of it is used.
"""

from __future__ import annotations

import os
import stat
from array import array as int_array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pyroclast.engine.pages.index import PageIndex
from pyroclast.engine.pages.record import (
    HEADER_BYTES,
    STATE,
    PageError,
    PageFormat,
    checksum_of,
)
from pyroclast.engine.pages.writer import Kept
from pyroclast.errors import CacheFileError
from pyroclast_kernels import whole_file

BlockArrays = Callable[[int], Sequence[Any]]


class LostPageError(Exception):
    """The page of that number was evicted before it was written."""


def write_state(
    path: Path,
    format: PageFormat,
    n_pages: int,
    block_arrays: BlockArrays,
    kept: Callable[[], Sequence[Kept]],
    state: Callable[[], bytes | None],
) -> None:
    """Writes a file whole or not at all.  kept: computes the pages that are not in the cache, and
    returns all; asked again for those that are evicted before they are written.  state: that of
    recurrent layers behind the last page, None if it was evicted."""
    buffer = bytearray(format.identity.page_bytes)
    try:
        with whole_file.replacing(path, 0o600) as file:
            file.write(format.file_header(STATE, n_pages))
            pages = kept()
            for i in range(n_pages):
                pages = _write_page(file, format, i, pages, kept, (buffer, block_arrays))
            if format.n_state_bytes:
                file.write(format.tail(_found_state(kept, state)))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = error.strerror if isinstance(error, OSError) else None
        raise CacheFileError(f"{path}: cannot be written: {why or error}") from error
    except LostPageError as error:
        raise CacheFileError(
            f"{path}: not written: the prefix cache cannot hold {n_pages} pages beside what else "
            f"runs ({error}); give it more n_blocks or prefix_cache_bytes"
        ) from error


def _found_state(kept: Callable[[], Sequence[Kept]], state: Callable[[], bytes | None]) -> bytes:
    for _ in range(3):
        if (found := state()) is not None:
            return found
        kept()
    raise LostPageError("the state of its recurrent layers was evicted three times")


def _write_page(
    file: BinaryIO,
    format: PageFormat,
    i: int,
    pages: Sequence[Kept],
    kept: Callable[[], Sequence[Kept]],
    copying: tuple[bytearray, BlockArrays],
) -> Sequence[Kept]:
    """Writes page i; returns the pages that are in the cache now."""
    for _ in range(3):
        if i < len(pages) and pages[i].copy_to(*copying):
            page = pages[i].page
            file.write(format.record_header(page, checksum_of(copying[:1])))
            file.write(copying[0])
            return pages
        pages = kept()
    raise LostPageError(f"page {i} was evicted three times")


@dataclass(frozen=True)
class State:
    """The pages of a saved state: a tier that is read only.  behind: the state of recurrent layers
    behind the last page, for the arrays of a slot; empty for other models."""

    index: PageIndex
    root: bytes
    token_ids: list[int]
    behind: bytes
    slot_arrays: BlockArrays

    @property
    def n_read(self) -> int:
        """Pages of cache_dir read so far: none.  A counter must not fall when the state is gone."""
        return 0

    def load(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]], first: int, blocks: Sequence[int]
    ) -> int:
        """See PageIndex.load."""
        return self.index.load(root, pages, first, blocks)

    def find_states(
        self, root: bytes, pages: Sequence[tuple[bytes, bytes]]
    ) -> tuple[int, list[int]]:
        """See Tier: there is one state, behind all of its pages."""
        n_found = len(self.index.chain(root, pages))
        n_pages = len(self.token_ids) // self.index.format.identity.block_size
        return n_found, [n_pages] if self.behind and n_found == n_pages else []

    def load_state(self, root: bytes, pages: Sequence[tuple[bytes, bytes]], slot: int) -> bool:
        """See Tier."""
        if len(self.index.chain(root, pages)) < len(pages):
            return False
        fill(self.slot_arrays(slot), self.behind)
        return True

    def offer(self, pages: Iterable[Kept], states: Iterable[Kept]) -> None:
        """Keeps nothing."""

    def forget(self, keys: Iterable[bytes]) -> None:
        """Pages that shall not be read any more."""
        self.index.forget(keys)

    def close(self) -> None:
        """Nothing is open."""


def open_state(
    path: Path,
    format: PageFormat,
    block_arrays: BlockArrays,
    n_threads: int,
    slot_arrays: BlockArrays,
) -> State:
    """Checks a whole file; CacheFileError says what is wrong with it."""
    index = PageIndex(format, block_arrays, n_threads)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            n_bytes = _check_size(descriptor, format)
            root, token_ids = _check_pages(descriptor, format, n_bytes)
            index.add_records(path, descriptor, HEADER_BYTES, n_bytes)
            behind = format.read_tail(os.pread(descriptor, format.n_tail_bytes, n_bytes))
        finally:
            os.close(descriptor)
    except (PageError, OSError, ValueError) as error:  # ValueError: a null byte in the path
        why = error.strerror if isinstance(error, OSError) else error
        raise CacheFileError(f"{path}: cannot be loaded: {why}") from error
    return State(index, root, token_ids, behind, slot_arrays)


def fill(arrays: Sequence[Any], raw: bytes) -> None:
    """Writes the bytes into the arrays, one after the other."""
    start = 0
    for array in arrays:
        end = start + array.nbytes
        array.reshape(-1).view("u1")[:] = memoryview(raw)[start:end]
        start = end


def _check_size(descriptor: int, format: PageFormat) -> int:
    """Where the file's pages end, as its header says."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise PageError("it is not a regular file")
    n_pages = format.read_file_header(os.pread(descriptor, HEADER_BYTES, 0), STATE)
    wanted = HEADER_BYTES + n_pages * format.record_bytes
    n_bytes = wanted + format.n_tail_bytes
    if not n_pages or status.st_size != n_bytes:
        raise PageError(
            f"{n_pages} pages need {n_bytes} bytes, but it has {status.st_size} (cut short?)"
        )
    return wanted


def _check_pages(descriptor: int, format: PageFormat, n_bytes: int) -> tuple[bytes, list[int]]:
    """The root and the token ids of all pages; PageError unless each follows the one before,
    undamaged."""
    token_ids: list[int] = []
    root = parent = b""
    content = bytearray(format.identity.page_bytes)
    for i, offset in enumerate(range(HEADER_BYTES, n_bytes, format.record_bytes)):
        header = bytearray(format.record_header_bytes)
        n_read = os.preadv(descriptor, [header, content], offset)
        page, checksum = format.read_record(bytes(header))
        if n_read < format.record_bytes or checksum_of([content]) != checksum:
            raise PageError(f"page {i}, counted from 0, is damaged")
        if i == 0:
            root = page.root
        if page.root != root or page.parent != parent:
            raise PageError(f"page {i} does not follow the page before it")
        token_ids += int_array("i", page.ids)
        parent = page.key
    return root, token_ids
