"""Rows of files that are read and packed by one native call, against packing them one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyroclast_kernels import file_loading, program
from pyroclast_kernels.file_loading import FileLoading
from pyroclast_kernels.memory import HostMemory
from pyroclast_kernels.program import make_executor
from pyroclast_kernels.selection import Selection
from pyroclast_kernels.weights.packing import PackedWeight
from raw_blocks import random_blocks

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(make_executor(1) is None, reason="the native executor was not built"),
]
N_COLS, HEADER = 512, b"twelve bytes"


class Files:
    """Rows in files of their own, open until the test ends."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._descriptors = folder, list[int]()

    def write(self, rows: np.ndarray) -> int:
        path = self._folder / str(len(self._descriptors))
        path.write_bytes(HEADER + rows.tobytes())
        self._descriptors.append(os.open(path, os.O_RDWR))
        return self._descriptors[-1]

    def close(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    found = Files(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("format", ["f32", "bf16", "q8_0", "q4_1", "q6_k"])
def test_packed_rows_are_those_of_the_op_pack(
    files: Files, monkeypatch: pytest.MonkeyPatch, format: str, n_threads: int
) -> None:
    """Three matrices of which the last two lie in one weight, one by rows in another order, in runs
    of 16 or 32 rows; the last row group is not full."""
    monkeypatch.setattr(file_loading, "_RUN_BYTES", 1 << 14)
    selection, executor = Selection(), make_executor(n_threads)
    memory, loading = HostMemory(selection, executor), FileLoading(selection, executor)
    order = np.random.default_rng(0).permutation(64)
    pairs = []
    for weight_rows, parts in ((100, [(100, None)]), (64 + 37, [(64, order), (37, None)])):
        weights = [PackedWeight.empty(format, weight_rows, N_COLS) for _ in range(2)]
        offset = 0
        for n_rows, permuted in parts:
            raw = random_blocks(n_rows, N_COLS, format, seed=n_rows)
            where = files.write(raw), len(HEADER), raw.shape[1], n_rows
            assert loading.add(*where, weights[0], offset, permuted)
            memory.pack(raw if permuted is None else raw[permuted], weights[1], offset)
            offset += n_rows
        pairs.append(weights)
    assert loading.n_bytes > 0
    assert loading.run()
    assert loading.n_bytes == 0
    for found, expected in pairs:
        assert np.array_equal(found.data, expected.data)
    assert loading.run(), "nothing waits any more"


def test_many_calls_pack_what_one_does(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few runs each: between two of them Python sees Ctrl-C."""
    monkeypatch.setattr(file_loading, "_RUN_BYTES", 1 << 14)
    raw = random_blocks(400, N_COLS, "q8_0")
    where = files.write(raw), len(HEADER), raw.shape[1], 400
    weights = []
    for call_bytes in (1 << 14, 50_000, 1 << 30):
        monkeypatch.setattr(file_loading, "_CALL_BYTES", call_bytes)
        weights.append(PackedWeight.empty("q8_0", 400, N_COLS))
        loading = FileLoading(Selection(), make_executor(2))
        assert loading.add(*where, weights[-1], 0)
        assert loading.run()
    whole = PackedWeight.empty("q8_0", 400, N_COLS)
    HostMemory(Selection(), make_executor(2)).pack(raw, whole, 0)
    for weight in weights:
        assert np.array_equal(weight.data, whole.data)


def test_rows_that_do_not_fit_are_refused(files: Files) -> None:
    """By the call, before native code reads or writes by these numbers."""
    raw = random_blocks(32, N_COLS, "q8_0")
    descriptor, loading = files.write(raw), FileLoading(Selection(), make_executor(1))
    weight = PackedWeight.empty("q8_0", 32, N_COLS)
    for row_bytes, n_rows, order in (
        (raw.shape[1] + 1, 32, None),
        (raw.shape[1], 48, None),
        (raw.shape[1], 32, np.arange(31)),
    ):
        with pytest.raises(AssertionError):
            loading.add(descriptor, len(HEADER), row_bytes, n_rows, weight, 0, order)
    assert loading.n_bytes == 0


def test_rows_that_are_gone_are_told(files: Files) -> None:
    """The others are packed nevertheless."""
    loading = FileLoading(Selection(), make_executor(2))
    raw = random_blocks(32, N_COLS, "q8_0")
    whole, cut = files.write(raw), files.write(raw)
    os.truncate(cut, len(HEADER) + raw.nbytes - 1)
    weights = [PackedWeight.empty("q8_0", 32, N_COLS) for _ in range(2)]
    for descriptor, weight in zip((cut, whole), weights, strict=True):
        assert loading.add(descriptor, len(HEADER), raw.shape[1], 32, weight, 0)
    assert not loading.run()
    assert not weights[0].data.any()
    assert weights[1].data.any()


def test_what_it_cannot_pack_is_left_to_others(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = random_blocks(8, N_COLS, "f32")
    rows = files.write(raw), len(HEADER), raw.shape[1], 8
    weight, executor = PackedWeight.empty("f32", 16, N_COLS), make_executor(1)
    shared_group = FileLoading(Selection(), executor)
    assert not shared_group.add(*rows, weight, 8)
    python = FileLoading(Selection("pack=numpy"), executor)
    assert not python.add(*rows, weight, 0)
    monkeypatch.setattr(program, "_executor", None)
    assert not FileLoading(Selection(), None).add(*rows, weight, 0)
    for each in (shared_group, python):
        assert each.n_bytes == 0
