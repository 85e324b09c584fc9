"""A file as memory: read-only, shared between processes, and safe when the file is cut.

Pages that are gone read as zeros, and `is_whole` tells; see native/executor_mapping.h.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.program import native_mapping

_POPULATE_BYTES = 32 << 20  # brought in by one call, which nothing interrupts


class MappedFile:
    """The first n_bytes of an open file, which may be closed afterwards; `data` is a read-only
    uint8 array.  The mapping lasts as long as this or any view of data."""

    def __init__(self, mapping: Any) -> None:
        self._mapping = mapping
        self.data: NDArray[np.uint8] = np.frombuffer(mapping, np.uint8)

    @property
    def is_whole(self) -> bool:
        """Whether the file is still what was mapped: no page was missing, and its size and time of
        modification are the same."""
        return self._mapping.is_whole  # type: ignore[no-any-return]

    def read_ahead(self) -> None:
        """Brings the pages in, in a thread, while the caller does something else."""
        mapping, n_bytes = self._mapping, len(self.data)

        def populate() -> None:
            for begin in range(0, n_bytes, _POPULATE_BYTES):
                mapping.populate(begin, begin + _POPULATE_BYTES)

        # A daemon: nobody waits for it at the end of the program.
        thread = threading.Thread(target=populate, name="pyroclast-pages", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be started: pages come when read
            thread.start()


def map_file(descriptor: int, n_bytes: int) -> MappedFile | None:
    """The mapped file.  None where native code was left out, which alone can guard it, where the
    file system maps no files, and where too many are mapped; OSError if memory does not suffice."""
    try:
        mapping = native_mapping(descriptor, n_bytes)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        return None
    except RuntimeError:
        return None
    return None if mapping is None else MappedFile(mapping)
