"""Files that are written whole or not at all: a reader never sees half of one.

The content goes into a hidden file beside the real one, which it replaces at the end.  The writer
holds a lock on the hidden file as long as it lives; what a killed writer left behind has none, and
the next writer of the same file removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# What flock raises on file systems without locks, as some networks' are.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; any exception leaves what was
    there, and nothing else.  A link stays one, and a device is written to itself.  mode: less the
    process's umask."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as device:
            yield device
        return
    sweep(path)
    descriptor, part = _make(path, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)  # before the lock goes: until then it is not taken for litter
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def sweep(path: Path) -> None:
    """Removes what killed writers of `path` left behind."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
            finally:
                os.close(descriptor)


def _make(path: Path, mode: int) -> tuple[int, Path]:
    """A hidden file that this process has locked, where the file system has locks; where it has
    none, nobody can sweep it either."""
    while True:
        part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
        try:
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            continue
        except OSError as error:  # names the file that was asked for, not the hidden one
            raise OSError(error.errno, error.strerror, str(path)) from error
        try:
            _lock(descriptor)
            # Between the two, another writer may have taken it for litter.
            if os.path.samestat(os.fstat(descriptor), part.stat()):
                return descriptor, part
        except (FileNotFoundError, BlockingIOError):
            pass
        except BaseException:
            os.close(descriptor)
            part.unlink(missing_ok=True)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
