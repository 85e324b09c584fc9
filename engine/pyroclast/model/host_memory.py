"""How much memory the process may still take on the host, and typed errors where it cannot."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import MemoryBudgetError, PyroclastError
from pyroclast_kernels import cgroups

_UNKNOWN = 4 << 30  # where the system does not tell
# What the loader of shared libraries says of a library that memory does not suffice for.
_LIBRARY_DOES_NOT_FIT = ("failed to map segment", "cannot allocate memory")


def available_bytes(promised: int = 0) -> int:
    """The smallest of what Linux has without swapping, what RLIMIT_AS leaves of the address space,
    and what the memory limits of the cgroups leave.  promised: bytes that are mapped but not yet
    resident, which only RLIMIT_AS counts; they are left out of what is free."""
    resident = (_system_room(), cgroups.memory_left())
    rooms = [room - promised for room in resident if room is not None]
    mapped = _address_space_room()
    found = min((*rooms, *(() if mapped is None else (mapped,))), default=_UNKNOWN - promised)
    return max(0, found)


def resident_bytes(array: NDArray[Any]) -> int:
    """How much of a contiguous array lies in memory, in whole pages: what nobody has touched does
    not.  0 where the system does not tell."""
    page = os.sysconf("SC_PAGE_SIZE")
    first = array.ctypes.data // page * page
    n_pages = -(-(array.ctypes.data + array.nbytes - first) // page)
    told = np.zeros(n_pages, np.uint8)
    try:
        mincore = ctypes.CDLL(None).mincore
    except AttributeError:
        return 0
    size, bits = ctypes.c_size_t(n_pages * page), ctypes.c_void_p(told.ctypes.data)
    if mincore(ctypes.c_void_p(first), size, bits):
        return 0
    return min(array.nbytes, page * int(np.count_nonzero(told & 1)))


@contextmanager
def resource_errors() -> Iterator[None]:
    """A failed allocation inside becomes a MemoryBudgetError, a file that cannot be opened because
    too many are open a PyroclastError."""
    try:
        yield
    except MemoryError as error:
        raise _out_of_memory(error) from error
    except OSError as error:  # from mmap, or from an import
        if error.errno == errno.ENOMEM:
            raise _out_of_memory(error) from error
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise PyroclastError(
            f"too many files are open for a model to be loaded: {error}; close some, or raise the "
            "limit (ulimit -n)"
        ) from error
    except ImportError as error:
        if not any(words in str(error).lower() for words in _LIBRARY_DOES_NOT_FIT):
            raise
        raise _out_of_memory(error) from error


def is_address_space_limited() -> bool:
    """Whether RLIMIT_AS bounds it.  Then a thread may fail to get what libraries keep for each
    thread, and glibc aborts the process."""
    return _address_space_room() is not None


def _out_of_memory(error: Exception) -> MemoryBudgetError:
    reason = f": {error}" if str(error) else ""
    return MemoryBudgetError(
        f"the system refused memory while the model was loaded{reason}.  About "
        f"{available_bytes() >> 20} MiB are available; a smaller format (model@q4_0) or kv_dtype, "
        "fewer n_blocks, max_seqs or max_batch_tokens take less"
    )


def _system_room() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _address_space_room() -> int | None:
    """RLIMIT_AS less what the process maps now; None without such a limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return limit
    return max(0, limit - n_pages * os.sysconf("SC_PAGE_SIZE"))
