"""Weights that wait to be read together: what is wrong with a file is told as ever."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.tensor import converted
from pyroclast.errors import ModelFileError
from pyroclast.model import row_queue
from pyroclast.model.row_queue import RowQueue
from pyroclast_kernels.file_loading import FileLoading
from pyroclast_kernels.memory import CountingMemory, HostMemory
from pyroclast_kernels.program import make_executor
from pyroclast_kernels.selection import Selection

pytestmark = pytest.mark.skipif(
    make_executor(1) is None, reason="the native executor was not built"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(tiny.write_gguf(tmp_path / "m.gguf", tiny.BASE, tiny.random_weights(tiny.BASE)))


@pytest.fixture
def memory() -> HostMemory:
    return HostMemory(Selection(), make_executor(2))


def test_rows_wait_until_they_are_enough(
    path: Path, memory: HostMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.tensors["token_embd"]
        monkeypatch.setattr(row_queue, "_MAX_BYTES", tensor.n_bytes + 1)
        queue = RowQueue.of(memory)
        assert queue is not None
        first, second = (memory.weight(tensor.format, *tensor.shape) for _ in range(2))
        assert queue.add(tensor, first, 0)
        assert not first.data.any()
        assert queue.add(tensor, second, 0)
        for weight in (first, second):
            assert np.array_equal(weight.dequantize(), tensor.float32())


def test_only_rows_as_they_are_stored_wait(path: Path, memory: HostMemory) -> None:
    assert RowQueue.of(CountingMemory(on_gpu=False)) is None
    with open_checkpoint(path) as checkpoint:
        tensor = converted(checkpoint.tensors["token_embd"], "q8_0")
        assert not RowQueue(memory).add(tensor, memory.weight("q8_0", *tensor.shape), 0)


def test_a_file_that_is_cut_while_rows_wait(path: Path, memory: HostMemory) -> None:
    with open_checkpoint(path) as checkpoint:
        tensor, queue = checkpoint.tensors["token_embd"], RowQueue(memory)
        queue.add(tensor, memory.weight(tensor.format, *tensor.shape), 0)
        os.truncate(path, tensor.source.offset + 1)
        with pytest.raises(ModelFileError, match="could be read: the file had"):
            queue.flush()


def test_a_file_that_is_changed_while_rows_wait(path: Path, memory: HostMemory) -> None:
    with open_checkpoint(path) as checkpoint:
        tensor, queue = checkpoint.tensors["token_embd"], RowQueue(memory)
        queue.add(tensor, memory.weight(tensor.format, *tensor.shape), 0)
        os.utime(path, ns=(0, 0))
        with pytest.raises(ModelFileError, match="the file was changed while it was open"):
            queue.flush()


def test_rows_that_failed_once_are_packed_one_by_one(
    path: Path, memory: HostMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileLoading, "run", lambda self: False)
    with open_checkpoint(path) as checkpoint:
        tensor, queue = checkpoint.tensors["token_embd"], RowQueue(memory)
        weight = memory.weight(tensor.format, *tensor.shape)
        queue.add(tensor, weight, 0)
        queue.flush()
        assert np.array_equal(weight.dequantize(), tensor.float32())
