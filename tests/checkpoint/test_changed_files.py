"""Model files that change while they are read: an error that names the place, never a signal."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.errors import ModelFileError
from pyroclast.files.model_file import ModelFile
from pyroclast.model.model import load_model

MODELS = ("gguf", "gguf@q8_0", "folder", "folder@q4_0", "files")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("changed")
    weights = tiny.random_weights(tiny.BASE)
    tiny.write_gguf(root / "gguf", tiny.BASE, weights)
    tiny.write_folder(root / "folder", tiny.BASE, weights)
    tiny.write_folder(root / "files", tiny.BASE, weights, n_files=3)
    return root


def copied(originals: Path, folder: Path, model: str) -> tuple[str, Path]:
    """A model to load, a copy; and the last of its files, whose weights are read last or never
    first."""
    name, at, to_format = model.partition("@")
    path = folder / name
    if name == "gguf":
        shutil.copy(originals / name, path)
        return f"{path}{at}{to_format}", path
    shutil.copytree(originals / name, path, dirs_exist_ok=True)
    return f"{path}{at}{to_format}", max(path.glob("*.safetensors"))


def load(checkpoint: Checkpoint) -> None:
    checkpoint.tokenizer()
    load_model(checkpoint, threads=2, n_blocks=2).close()


CHANGES: dict[str, Callable[[Path], Any]] = {
    "cut to one byte": lambda path: os.truncate(path, 1),
    "cut by one byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "made longer": lambda path: os.truncate(path, path.stat().st_size + 100),
    "written anew": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model", MODELS)
def test_changed_between_opening_and_loading(
    originals: Path, tmp_path: Path, model: str, change: str
) -> None:
    name, file = copied(originals, tmp_path, model)
    checkpoint = open_checkpoint(name)
    time.sleep(0.02)  # a file system may tell times apart by some milliseconds only
    CHANGES[change](file)
    with checkpoint, pytest.raises(ModelFileError, match=r"while it was open|when it was opened"):
        load(checkpoint)


@pytest.mark.parametrize("model", ["gguf", "folder"])
def test_what_is_missing_is_named(originals: Path, tmp_path: Path, model: str) -> None:
    name, file = copied(originals, tmp_path, model)
    with open_checkpoint(name) as checkpoint:
        tensor = checkpoint.tensors["output"]
        source: Any = tensor.source
        size = file.stat().st_size
        os.truncate(file, source.offset + 100)
        with pytest.raises(ModelFileError) as caught:
            tensor.rows()
    assert str(caught.value) == (
        f"{file}: tensor {tensor.source_name!r} needs {tensor.n_bytes} bytes at offset "
        f"{source.offset}, but 100 could be read: the file had {size} bytes when it was opened "
        f"and has {source.offset + 100} now; load it again when no other program writes it"
    )


@pytest.mark.parametrize("model", MODELS)
def test_cut_before_any_of_the_reads(
    originals: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the n-th and the next read of a load, opening included."""
    name, _ = copied(originals, tmp_path, model)
    reads = 0
    read_into = ModelFile.read_into

    def counted(self: ModelFile, out: Any, offset: int, what: str) -> None:
        nonlocal reads
        reads += 1
        if reads == cut_at:
            os.truncate(self.path, min(100, cut_at))
        read_into(self, out, offset, what)

    monkeypatch.setattr(ModelFile, "read_into", counted)
    cut_at = 0
    with open_checkpoint(name) as checkpoint:
        load(checkpoint)
    n_reads = reads
    assert n_reads > 5  # those that Python does
    for cut_at in range(1, n_reads + 1, 3):  # noqa: B007 - read by `counted`
        reads = 0
        copied(originals, tmp_path, model)
        with pytest.raises(ModelFileError), open_checkpoint(name) as checkpoint:
            load(checkpoint)


def test_cut_by_another_thread(originals: Path, tmp_path: Path) -> None:
    """All was read before the cut, or there is an error; a signal would end the tests."""
    n_refused = 0
    for delay_us in range(0, 6000, 200):
        name, file = copied(originals, tmp_path, "gguf")
        thread = threading.Timer(delay_us / 1e6, os.truncate, (file, 4096))
        thread.start()
        try:
            with open_checkpoint(name) as checkpoint:
                load(checkpoint)
        except ModelFileError:
            n_refused += 1
        thread.join()
    assert n_refused > 0


@pytest.mark.parametrize("model", ["gguf", "folder"])
def test_replaced_by_renaming(originals: Path, tmp_path: Path, model: str) -> None:
    """What was opened is what is loaded: the old file, whole."""
    name, file = copied(originals, tmp_path, model)
    with open_checkpoint(name) as checkpoint:
        before = {key: tensor.rows() for key, tensor in checkpoint.tensors.items()}
        other = tmp_path / "other"
        other.write_bytes(b"something else")
        os.replace(other, file)
        for key, tensor in checkpoint.tensors.items():
            assert np.array_equal(tensor.rows(), before[key])
        load(checkpoint)
    with pytest.raises(ModelFileError):
        open_checkpoint(name)


@pytest.mark.parametrize("model", ["gguf", "folder"])
def test_cut_while_it_is_converted(
    originals: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, file = copied(originals, tmp_path, model)
    read_into = ModelFile.read_into

    def cut(self: ModelFile, out: Any, offset: int, what: str) -> None:
        if "ffn_down" in what or "down_proj" in what:
            os.truncate(file, 200)
        read_into(self, out, offset, what)

    monkeypatch.setattr(ModelFile, "read_into", cut)
    with pytest.raises(ModelFileError, match=r"tensor '.*down.*' needs \d+ bytes"):
        convert(name, str(tmp_path / "new.gguf"), "q8_0", threads=2)
    assert not (tmp_path / "new.gguf").exists()


def test_a_vocabulary_that_changes_after_it_was_checked(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the change cannot be seen from outside: same size, same time, other lengths."""
    name, file = copied(originals, tmp_path, "gguf")
    with open_checkpoint(name) as checkpoint:
        status = file.stat()
        content = bytearray(file.read_bytes())
        start = content.index(b"tokenizer.ggml.tokens") + 21 + 16
        for length in (3, 1 << 20, 1 << 63, (1 << 64) - 1):
            content[start : start + 8] = length.to_bytes(8, "little")
            file.write_bytes(content)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
            with pytest.raises(ModelFileError, match=r"tokenizer\.ggml\.tokens"):
                checkpoint.tokenizer()
