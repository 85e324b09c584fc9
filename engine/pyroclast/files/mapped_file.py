"""A model file mapped read-only into memory, every access checked against its size."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from typing import TYPE_CHECKING

from pyroclast.errors import ClosedError, MemoryBudgetError, ModelFileError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class MappedFile:
    """The bytes of one regular, non-empty file, neither copied nor written.

    A view stays valid after close() as long as something holds it; new views are refused.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.size = os.fspath(path), 0
        try:
            # Checked before opening: opening a pipe would wait for its writer.
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise ModelFileError(f"{self.path}: not a regular file")
            with open(self.path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                if self.size == 0:
                    raise ModelFileError(f"{self.path}: the file is empty")
                self._map: mmap.mmap | None = mmap.mmap(
                    file.fileno(), self.size, access=mmap.ACCESS_READ
                )
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            if isinstance(error, OSError) and error.errno == errno.ENOMEM:
                raise MemoryBudgetError(
                    f"{self.path}: no room to map its {self.size >> 20} MiB; raise the limit on "
                    "the address space (ulimit -v) or use a smaller format"
                ) from error
            raise ModelFileError(f"{self.path}: cannot be read: {error}") from error

    @property
    def buffer(self) -> mmap.mmap:
        """The map itself, for parsers that check their own bounds."""
        if self._map is None:
            raise ClosedError(f"{self.path}: used after close()")
        return self._map

    def view(self, offset: int, n_bytes: int) -> npt.NDArray[np.uint8]:
        """n_bytes from offset as a read-only uint8 array, without a copy."""
        import numpy as np

        assert min(offset, n_bytes) >= 0
        assert offset + n_bytes <= self.size
        return np.frombuffer(self.buffer, dtype=np.uint8, count=n_bytes, offset=offset)

    def release(self, offset: int, n_bytes: int) -> None:
        """Drops these bytes from resident memory; a later access reads them again."""
        start = offset - offset % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED, start, offset + n_bytes - start)

    def close(self) -> None:
        """Unmaps the file once no view is left; harmless when repeated."""
        mapped, self._map = self._map, None
        if mapped is not None:
            # BufferError: views are still alive; the map is freed with the last of them.
            with contextlib.suppress(BufferError):
                mapped.close()
