"""Memory limits: what counts as available, and that a refused allocation is told in words."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast import LLM, MemoryBudgetError, PyroclastError
from pyroclast.checkpoint.tensor import Scratch
from pyroclast.model import host_memory
from pyroclast.model.host_memory import available_bytes, resident_bytes, resource_errors
from pyroclast_kernels import cgroups
from pyroclast_kernels.memory import HostMemory
from smaps import vm_flags

MIB = 1 << 20
LIMITED = """
import resource, sys
from pathlib import Path
from pyroclast import LLM, MemoryBudgetError, SamplingParams
def load(**options):
    with LLM(sys.argv[1], device="cpu", threads=1, **options) as llm:
        llm.generate([5], SamplingParams(max_tokens=1))
        return llm.model.kv_bytes
load(n_blocks=4)  # everything is imported and compiled
n_pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = n_pages * resource.getpagesize() + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    load(n_blocks=None, max_seqs=int(sys.argv[3]))
    print("loaded")
except MemoryBudgetError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "tiny"
    tiny.write_folder(path, tiny.BASE, tiny.random_weights(tiny.BASE))
    return path


def test_what_was_promised_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the address space, which counts it already."""
    monkeypatch.setattr(cgroups, "memory_left", lambda: 50 * MIB)
    assert available_bytes(promised=20 * MIB) == 30 * MIB
    assert available_bytes(promised=60 * MIB) == 0
    monkeypatch.setattr(host_memory, "_address_space_room", lambda: 40 * MIB)
    assert available_bytes(promised=5 * MIB) == 40 * MIB


def test_what_was_touched_is_resident() -> None:
    # Not of malloc, which may give what was touched before.
    room = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(room, np.uint8)
    assert resident_bytes(array) < 4 * MIB
    array[: 16 * MIB] = 1
    assert 16 * MIB <= resident_bytes(array) < 24 * MIB
    array[...] = 1
    assert resident_bytes(array) == 64 * MIB
    assert resident_bytes(np.ones(3, np.uint8)) == 3


def test_arrays_take_no_memory_before_they_are_written() -> None:
    """Also where malloc has taken arrays of their size into its heap, as it does after a first."""
    memory = HostMemory()
    behind = []  # holds the heap open behind each array, so that its end is not given back
    for _ in range(3):
        array = memory.zeros((6, 4 * MIB), np.uint8)
        array[...] = 1
        behind.append(bytearray(100_000))
        del array
    array = memory.zeros((6, 4 * MIB), np.uint8)
    assert array.shape == (6, 4 * MIB)
    assert not resident_bytes(array)
    assert not array.any()


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has one size of pages")
def test_all_but_the_begin_of_an_array_is_in_huge_pages() -> None:
    memory = HostMemory()
    array = memory.zeros((3, 4 * MIB), np.uint8).reshape(-1)
    assert "hg" not in vm_flags(array)
    assert "hg" in vm_flags(array[2 * MIB :])
    assert "hg" in vm_flags(array[-1:])
    assert "hg" not in vm_flags(memory.zeros((3 * MIB,), np.uint8))


def test_the_smallest_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    without = available_bytes()
    monkeypatch.setattr(cgroups, "memory_left", lambda: 50 * MIB)
    assert available_bytes() == 50 * MIB < without
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (mapped + 40 * MIB, -1))
    assert 30 * MIB < available_bytes() <= 41 * MIB
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 * MIB, -1))
    assert available_bytes() == 0


def test_a_cgroup_limit_bounds_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(folder, device="cpu") as llm:
        n_blocks, kv_bytes = llm.model.n_blocks, llm.model.kv_bytes
        weight_bytes = llm.model.plan.n_bytes["weights"]
    monkeypatch.setattr(cgroups, "memory_left", lambda: weight_bytes + kv_bytes)
    with LLM(folder, device="cpu") as llm:
        assert llm.model.n_blocks == n_blocks // 2
    monkeypatch.setattr(cgroups, "memory_left", lambda: weight_bytes)
    with pytest.raises(MemoryBudgetError, match=r"the weights need .* 1 cache blocks"):
        LLM(folder, device="cpu")


def no_memory(*_: Any, **__: Any) -> Any:
    return np.empty(1 << 60, np.uint8)  # NumPy's own MemoryError


def no_pages(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))  # as mmap does


@pytest.mark.parametrize("refuse", [no_memory, no_pages])
@pytest.mark.parametrize("method", ["zeros", "inputs", "table", "outputs", "weight", "constant"])
def test_a_refused_allocation_is_a_memory_budget_error(
    folder: Path, method: str, refuse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostMemory, method, refuse)
    with pytest.raises(MemoryBudgetError, match=r"refused memory .* MiB are available"):
        LLM(folder, device="cpu")


def test_no_memory_to_read_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scratch, "take", no_memory)
    with pytest.raises(MemoryBudgetError, match="the system refused memory"):
        LLM(folder, device="cpu")


def test_other_system_errors_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), resource_errors():
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize(
    ("room_mib", "max_seqs", "expected"),
    [(400, 8, "loaded"), (1, 8, "refused: "), (100, 1 << 20, "refused: ")],
)
def test_address_space_limit(folder: Path, room_mib: int, max_seqs: int, expected: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(folder), str(room_mib), str(max_seqs)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 120}
    out = subprocess.run(command, check=False, env=env, **options)
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.startswith(expected)


@pytest.mark.parametrize(
    "words", ["x.so: failed to map segment from shared object", "x.so: cannot allocate memory in"]
)
def test_a_library_that_memory_does_not_suffice_for_is_told_in_words(words: str) -> None:
    with pytest.raises(MemoryBudgetError, match="the system refused memory"), resource_errors():
        raise ImportError(words)


def test_a_library_that_is_not_there_is_another_matter() -> None:
    with pytest.raises(ImportError, match="no such file"), resource_errors():
        raise ImportError("x.so: no such file")


def test_too_many_open_files_are_told_in_words():
    words = r"too many files are open .* \(ulimit -n\)"
    with pytest.raises(PyroclastError, match=words), resource_errors():
        raise OSError(errno.EMFILE, "Too many open files", "reference.py")


def test_a_limited_address_space_is_seen(monkeypatch):
    monkeypatch.setattr(host_memory, "_address_space_room", lambda: None)
    assert not host_memory.is_address_space_limited()
    monkeypatch.setattr(host_memory, "_address_space_room", lambda: 0)
    assert host_memory.is_address_space_limited()
