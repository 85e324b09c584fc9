"""Scratch memory is taken when a program is made, and no kernel has thread-local data."""

from __future__ import annotations

from typing import Any

import pytest

from pyroclast_kernels import KernelError, program
from pyroclast_kernels.native import scratch
from pyroclast_kernels.native.compiled import compiled_kernels, open_modules

pytestmark = pytest.mark.native


def modules() -> list[Any]:
    compiled_kernels("_cpp_baseline", "baseline")
    return open_modules()


def test_no_kernel_has_thread_local_data() -> None:
    # glibc takes such data when a thread first touches them, and ends the process if it cannot.
    for module in modules():
        with open(module.__file__, "rb") as file:
            data = file.read()
        assert data[:4] == b"\x7fELF"
        first, size, n = (
            int.from_bytes(data[at : at + k], "little") for at, k in ((32, 8), (54, 2), (56, 2))
        )
        kinds = {int.from_bytes(data[first + i * size :][:4], "little") for i in range(n)}
        assert 1 in kinds and 7 not in kinds, module.__file__  # PT_LOAD, PT_TLS


class Refusing:
    """A module whose kernel at address 5 takes 100 bytes, of which there are 300."""

    def scratch_bytes(self, address: int, args: int) -> int:
        return 100 if address == 5 else 0

    def reserve_scratch(self, n_threads: int, n_bytes: int) -> None:
        if n_threads * n_bytes > 300:
            raise MemoryError


def test_refused_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "open_modules", lambda: [Refusing()])
    scratch.reserve_scratch([(5, 0), (4, 0)], 3)
    scratch.reserve_scratch([(4, 0)], 4)
    with pytest.raises(KernelError, match="4 threads take 100 bytes each; ask for fewer threads"):
        scratch.reserve_scratch([(5, 0), (4, 0)], 4)


def test_the_threads_of_all_executors_count() -> None:
    before = program._executor.n_live_threads()
    two, three = program.make_executor(2), program.make_executor(3)
    assert program._executor.n_live_threads() == before + 5
    del two
    assert program._executor.n_live_threads() == before + three.n_threads
