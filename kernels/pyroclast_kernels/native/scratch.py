"""Takes the scratch memory of a program's kernels before it runs (scratch.h): kernels cannot say
that there is none."""

from __future__ import annotations

from collections.abc import Iterable

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.native.compiled import open_modules


def reserve_scratch(calls: Iterable[tuple[int, int]], n_threads: int) -> None:
    """Takes for so many threads, which may work at the same time, what the largest of the calls
    needs: (address of the kernel, address of its arguments).  KernelError if there is no such
    memory."""
    calls = list(calls)
    for module in open_modules():
        n_bytes = max((module.scratch_bytes(*call) for call in calls), default=0)
        if not n_bytes:
            continue
        try:
            module.reserve_scratch(n_threads, n_bytes)
        except MemoryError as error:
            raise KernelError(
                f"no memory for the kernels' scratch: {n_threads} threads take {n_bytes} bytes "
                "each; ask for fewer threads, or raise the limit on memory (ulimit -v)"
            ) from error
