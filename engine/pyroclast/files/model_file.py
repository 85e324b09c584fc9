"""A model file that is read piece by piece, each piece checked against the file as it was opened.

It is not mapped into memory: if another process cuts a mapped file, or its disk fails, the next
access raises SIGBUS, where a read gives an error.  Only packed files are mapped, and guarded
(`pyroclast_kernels.mapped_file`).
"""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

from pyroclast.errors import ClosedError, ModelFileError, reason_of

_RETRY = "load it again when no other program writes it"


class ModelFile:
    """One regular, non-empty file, open for reading at any offset.

    A read either gives bytes of the file as it was opened or raises a ModelFileError: a change of
    its size or of its time of modification counts as another file.  A file that is replaced by
    renaming another stays readable as it was.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.size = os.fspath(path), 0
        try:
            # O_NONBLOCK: opening a FIFO would wait for its writer.
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise ModelFileError(f"{self.path}: cannot be read: {reason_of(error)}") from error
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        status = os.fstat(descriptor)
        self._modified_ns = status.st_mtime_ns
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ModelFileError(f"{self.path}: not a regular file")
        self.size = status.st_size
        if self.size == 0:
            self.close()
            raise ModelFileError(f"{self.path}: the file is empty")

    def read(self, offset: int, n_bytes: int, what: str) -> bytes:
        """n_bytes from offset on; `what` they are stands in the error."""
        content = bytearray(n_bytes)
        self.read_into(content, offset, what)
        return bytes(content)

    def read_into(self, out: Any, offset: int, what: str) -> None:
        """Fills a writable buffer with the bytes from offset on."""
        rest = memoryview(out).cast("B")
        wanted, start = len(rest), offset
        assert 0 <= offset <= self.size - wanted
        if not self._close.alive:
            raise ClosedError(f"{self.path}: used after close()")
        try:
            while len(rest):
                n_bytes = os.preadv(self._descriptor, [rest], start)
                if n_bytes == 0:
                    break
                rest, start = rest[n_bytes:], start + n_bytes
            status = os.fstat(self._descriptor)
        except OSError as error:
            raise self._unreadable(what, error) from error
        if len(rest):
            raise ModelFileError(
                f"{self.path}: {what} needs {wanted} bytes at offset {offset}, but {start - offset}"
                f" could be read: the file had {self.size} bytes when it was opened and has "
                f"{status.st_size} now; {_RETRY}"
            )
        self._check_unchanged(status, what)

    def check_unchanged(self, what: str) -> None:
        """Raises if the file is another one than was opened; `what` was read of it by its
        descriptor."""
        try:
            status = os.fstat(self.fileno())
        except OSError as error:
            raise self._unreadable(what, error) from error
        self._check_unchanged(status, what)

    def _unreadable(self, what: str, error: OSError) -> ModelFileError:
        return ModelFileError(f"{self.path}: {what} cannot be read: {reason_of(error)}")

    def _check_unchanged(self, status: os.stat_result, what: str) -> None:
        if (status.st_size, status.st_mtime_ns) != (self.size, self._modified_ns):
            raise ModelFileError(
                f"{self.path}: the file was changed while it was open (read until {what}; "
                f"{self.size} bytes then, {status.st_size} now); {_RETRY}"
            )

    def fileno(self) -> int:
        """The open file's descriptor, to be duplicated: it belongs to this object."""
        if not self._close.alive:
            raise ClosedError(f"{self.path}: used after close()")
        return self._descriptor

    def close(self) -> None:
        """Closes the file; harmless when repeated."""
        self._close()


class Placed(Protocol):
    """A tensor, and which bytes of its file it has."""

    @property
    def name(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...


def missing_bytes(file: ModelFile, tensors: Iterable[Placed], *, complete: bool) -> int:
    """How much of the tensors lies beyond the file's end.  With complete, a ModelFileError names
    the first of them that ends there."""
    most = 0
    for tensor in tensors:
        end = tensor.offset + tensor.n_bytes
        most = max(most, end - file.size)
        if complete and most:
            raise ModelFileError(
                f"{file.path}: tensor {tensor.name!r} spans bytes {tensor.offset} to {end}, but "
                f"the file ends at {file.size} (a download that was cut short?)"
            )
    return most
