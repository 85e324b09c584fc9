"""The folder of cached pages: who may write to it, which files count, and how large it grows.
Snapshots of recurrent layers lie in it as pages do, below an identity of their own.

    cache_dir/<identity>/<time>-<process>-<random>.pages

Every writer has segments of its own, and holds a lock on the one that it writes.  So processes can
share the folder; what is incomplete and has no lock was left by one that was killed.  Nobody writes
to another's segment.  Where a file system has no locks, a segment counts as locked for an hour.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pyroclast.engine.pages.index import PageIndex
from pyroclast.engine.pages.record import HEADER_BYTES, PageError, PageFormat
from pyroclast.errors import CacheFileError
from pyroclast_kernels import cache_folder

DEFAULT_BYTES = 8 << 30  # of a folder, all its models together
_MAX_SEGMENT_BYTES = 256 << 20
_N_SEGMENTS = 8  # at least: so much of the bound goes when the oldest is dropped
_LOCKED_S = 3600.0


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made unless it is there, closed to others.  CacheFileError if it cannot be made
    or is not trusted."""
    try:
        top = Path(os.path.abspath(path))
        return cache_folder.make(top, top.parent)
    except (cache_folder.CacheError, ValueError) as error:  # ValueError: a null byte
        raise CacheFileError(f"cache_dir cannot be used: {error}") from error


class Bound(NamedTuple):
    """Bytes of a folder, and of each segment in it, at most."""

    max_bytes: int
    segment_bytes: int


def bound_for(max_bytes: int, formats: Sequence[PageFormat]) -> Bound:
    """For a folder of so many bytes that holds records of these formats; CacheFileError if it is
    too small for them."""
    largest = max(formats, key=lambda format: format.record_bytes)
    least = HEADER_BYTES + largest.record_bytes
    if max_bytes < _N_SEGMENTS * least:
        raise CacheFileError(
            f"cache_dir_bytes must be at least {_N_SEGMENTS * least} for this model, got "
            f"{max_bytes}: {_N_SEGMENTS} segments of one {largest.noun} each"
        )
    return Bound(max_bytes, max(least, min(_MAX_SEGMENT_BYTES, max_bytes // _N_SEGMENTS)))


class PageFolder:
    """The segments of one identity below `top`, and the bound on all that lies there."""

    def __init__(self, top: Path, format: PageFormat, bound: Bound) -> None:
        self._top, self._format = make_folder(top), format
        self._path = make_folder(self._top / format.digest.hex())
        self._max_bytes, self.segment_bytes = bound
        self.own: set[Path] = set()
        self._scanned: dict[Path, int] = {}  # how far others' segments were read

    def scan(self, index: PageIndex) -> None:
        """Adds the pages that others have written since the last time."""
        for path in sorted(self._path.glob("*.pages")):
            if path not in self.own:
                try:
                    self._scan(path, index)
                except FileNotFoundError:  # dropped by another process meanwhile
                    continue
                except (PageError, OSError) as error:
                    why = str(error.strerror if isinstance(error, OSError) else error)
                    index.warn(path, f"ignored: {why}")
                    self._scanned[path] = 1 << 62

    def _scan(self, path: Path, index: PageIndex) -> None:
        if path.lstat().st_size <= self._scanned.get(path, 0):
            return
        if reason := cache_folder.why_refused(path):
            raise PageError(reason)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PageError("it is not a regular file")
            is_live = is_locked(descriptor)
            end = os.fstat(descriptor).st_size  # last: who gave up the lock had written all
            offset = self._scanned.get(path, 0)
            if not offset:
                self._format.read_file_header(
                    os.pread(descriptor, HEADER_BYTES, 0), self._format.magic
                )
                offset = HEADER_BYTES
            offset = index.add_records(path, descriptor, offset, end)
            if offset < end and not is_live:
                last = f"its last {self._format.noun} is incomplete, and ignored"
                index.warn(path, f"{last}: the writer was killed")
                offset = end
            self._scanned[path] = offset
        finally:
            os.close(descriptor)

    def new_segment(self) -> Segment:
        """A segment that this process has locked; OSError if there is no room for one."""
        with self._alone():
            if not self._make_room():
                raise OSError("other processes write all that cache_dir_bytes allows")
            make_folder(self._path)  # another process may have removed it, empty
            cache_folder.sweep(self._path, "*.part")
            return Segment(self._path, self._format, self.own)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process makes room or a segment meanwhile, where the file system has locks."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._top / ".lock", flags, 0o600)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # The child of a fork that was made meanwhile holds it as well, if it is only closed.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _make_room(self) -> bool:
        """Removes the oldest segments, of any model, until another one fits; False if it cannot.
        What is being written counts as a whole segment."""
        found = []
        for path in self._top.glob("*/*.pages"):
            with contextlib.suppress(OSError):
                status, in_use = path.lstat(), _is_in_use(path)
                size = max(status.st_size, self.segment_bytes) if in_use else status.st_size
                found.append((status.st_mtime_ns, path, size, in_use))
        n_bytes = self.segment_bytes + sum(size for _, _, size, _ in found)
        for _, path, size, in_use in sorted(found):
            if n_bytes <= self._max_bytes:
                break
            if not in_use:
                with contextlib.suppress(OSError):
                    path.unlink()
                    n_bytes -= size
                    path.parent.rmdir()  # which fails unless it is empty
        return n_bytes <= self._max_bytes


class Segment:
    """A file that one thread appends records to.  It has its name when it is locked and has its
    header, and when the name is among `own`: the thread that scans takes no other for another's."""

    def __init__(self, folder: Path, format: PageFormat, own: set[Path]) -> None:
        name = f"{time.time_ns():020}-{os.getpid()}-{os.urandom(4).hex()}"
        self.path, self.n_bytes = folder / f"{name}.pages", 0
        part = folder / f"{name}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(part, flags, 0o600)
        try:
            with contextlib.suppress(OSError):  # no locks here: see the top of this file
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.append([format.file_header(format.magic)])
            own.add(self.path)
            part.rename(self.path)
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    def append(self, buffers: list[bytes | bytearray]) -> int:
        """Writes a record whole or not at all, unless the process ends; returns where it begins."""
        offset, wanted = self.n_bytes, sum(map(len, buffers))
        try:
            if os.writev(self._descriptor, buffers) == wanted:
                self.n_bytes += wanted
                return offset
        finally:
            if self.n_bytes == offset:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, offset)
        raise OSError("the disk is full, or a limit on the size of files was met")

    def close(self) -> None:
        """Gives the lock up; the file stays."""
        os.close(self._descriptor)


def is_locked(descriptor: int) -> bool:
    """Whether a process still writes to the file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime < _LOCKED_S
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _is_in_use(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return is_locked(descriptor)
    finally:
        os.close(descriptor)
