"""GGUF models in parts: any part, or the folder, opens all; parts that lie are refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tiny
from pyroclast.checkpoint.open import open_checkpoint, open_tokenizer
from pyroclast.cli import machine
from pyroclast.cli.main import main
from pyroclast.errors import ModelFileError
from stepping import load, logits_of

N_PARTS = 3
TOKENS = list(range(20, 50))


def part_name(number: int, count: int = N_PARTS, name: str = "m") -> str:
    """As llama.cpp's splitter names the parts."""
    return f"{name}-{number:05}-of-{count:05}.gguf"


def split(source: Path, folder: Path, change: Callable[[int, dict[str, Any]], None]) -> Path:
    """Writes the parts of a file by the `gguf` package; change(number, keys) may falsify them.
    As llama.cpp's splitter does, only the first part keeps the metadata."""
    folder.mkdir(exist_ok=True)
    reader = gguf.GGUFReader(source)
    for number in range(N_PARTS):
        keys: dict[str, Any] = {
            "split.no": number, "split.count": N_PARTS, "split.tensors.count": len(reader.tensors)
        }  # fmt: skip
        change(number, keys)
        writer = gguf.GGUFWriter(folder / part_name(number + 1), "")
        writer.kv_data[0].clear()  # the architecture, which the first part's own keys bring
        for field in reader.fields.values() if number == 0 else ():
            if not field.name.startswith("GGUF."):
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, inner)
        for key, value in keys.items():
            if isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_int32(key, value)
        for tensor in reader.tensors[number::N_PARTS]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    return tiny.write_gguf(folder / "m.gguf", tiny.BASE, tiny.random_weights(tiny.BASE), "Q8_0")


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> Path:
    return split(whole, tmp_path / "parts", lambda number, keys: None)


@pytest.mark.parametrize("given", ["", part_name(1), part_name(2), part_name(3)])
def test_any_part_or_the_folder_is_the_whole_model(whole: Path, parts: Path, given: str) -> None:
    with open_checkpoint(parts / given) as checkpoint, open_checkpoint(whole) as single:
        assert checkpoint.name == "m"
        assert checkpoint.config == single.config
        assert checkpoint.file_bytes == sum(file.stat().st_size for file in parts.iterdir())
        assert list(checkpoint.tensors) == list(single.tensors)
        for name, tensor in checkpoint.tensors.items():
            assert np.array_equal(tensor.rows(), single.tensors[name].rows())
    assert np.array_equal(logits_of(load(parts / given), TOKENS), logits_of(load(whole), TOKENS))


def test_a_folder_with_one_file_is_that_file(whole: Path) -> None:
    with open_checkpoint(whole.parent) as checkpoint:
        assert checkpoint.path == str(whole)


def test_a_folder_with_two_models_lists_them(whole: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).symlink_to(whole)
    with pytest.raises(ModelFileError, match=r"has 2 GGUF models \(a.gguf, b.gguf\); name one"):
        open_checkpoint(tmp_path)


def test_a_folder_with_neither_format_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"neither config.json nor a GGUF file; a model's"):
        open_checkpoint(tmp_path)


def test_a_merged_file_keeps_its_count_of_zero(whole: Path, tmp_path: Path) -> None:
    """llama.cpp's merge writes split.count 0."""
    folder = split(whole, tmp_path / "one", lambda number, keys: keys.update({"split.count": 0}))
    path = (folder / part_name(1)).rename(tmp_path / "merged.gguf")
    with pytest.raises(ModelFileError, match=r"tensor '.*' is missing"):  # of the other two parts
        open_checkpoint(path)


LIES: dict[str, tuple[Callable[[int, dict[str, Any]], None], str]] = {
    "number": (
        lambda number, keys: keys.update({"split.no": 0}),
        r"m-00002-of-00003.gguf: split.no is 0, but counted from 0 the name says 1",
    ),
    "count": (
        lambda number, keys: keys.update({"split.count": 3 + number}),
        r"m-00002-of-00003.gguf: split.count is 4, but the number of parts by the name is 3",
    ),
    "huge count": (
        lambda number, keys: keys.update({"split.count": 2**31 - 1}),
        r"m-00001-of-00003.gguf: split.count is 2147483647, but",
    ),
    "negative number": (
        lambda number, keys: keys.update({"split.no": number - 1}),
        r"m-00001-of-00003.gguf: split.no is -1",
    ),
    "tensors": (
        lambda number, keys: keys.update({"split.tensors.count": 7}),
        r"split.tensors.count is 7, but the number of tensors in all parts is ",
    ),
    "text": (
        lambda number, keys: keys.update({"split.count": "three"}),
        r"split.count is 'three', but the number of parts by the name is 3",
    ),
    "no keys": (lambda number, keys: keys.clear(), r"m-00001-of-00003.gguf: split.no is None"),
    "another model": (
        lambda number, keys: keys.update({"general.name": "other"} if number == 2 else {}),
        r"m-00003-of-00003.gguf: general.name is 'other', but in the first part",
    ),
}


@pytest.mark.parametrize("what", LIES)
def test_parts_that_lie_are_named(whole: Path, tmp_path: Path, what: str) -> None:
    change, message = LIES[what]
    folder = split(whole, tmp_path / "parts", change)
    with pytest.raises(ModelFileError, match=message):
        open_checkpoint(folder)


def test_a_missing_part_is_named(parts: Path) -> None:
    (parts / part_name(2)).unlink()
    for given in ("", part_name(1), part_name(3)):
        with pytest.raises(ModelFileError, match=r"part 2 of 3 is missing: m-00002-of-00003.gguf"):
            open_checkpoint(parts / given)


@pytest.mark.parametrize("name", [part_name(4), part_name(0), part_name(1, 0)])
def test_names_that_cannot_be(whole: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(whole)
    with pytest.raises(ModelFileError, match=r"its name says part . of"):
        open_checkpoint(tmp_path / name)


def test_a_promise_of_many_parts_costs_nothing(whole: Path, tmp_path: Path) -> None:
    (tmp_path / part_name(1, 99999)).symlink_to(whole)
    with pytest.raises(ModelFileError, match=r"part 2 of 99999 is missing"):
        open_checkpoint(tmp_path)


def test_a_renamed_part_is_no_model(parts: Path, tmp_path: Path) -> None:
    path = (parts / part_name(1)).rename(tmp_path / "model.gguf")
    with pytest.raises(
        ModelFileError, match=r"split.count is 3, but the number of parts by the na"
    ):
        open_checkpoint(path)


def test_parts_of_two_models_with_the_same_tensors(whole: Path, parts: Path) -> None:
    """Part 3 takes part 2's place, numbers and all: its tensors are there twice."""
    folder = split(whole, parts.parent / "b", lambda number, keys: keys.update({"split.no": 1}))
    os.replace(folder / part_name(3), parts / part_name(2))
    with pytest.raises(ModelFileError, match=r"tensor '.*' is in two parts: .*m-00002-of-00003"):
        open_checkpoint(parts)


# -- weights that are cut short ----------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_tokenize_needs_no_weights(
    whole: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_checkpoint(whole) as checkpoint:
        want = checkpoint.tokenizer().encode("hello")
    cut(parts / part_name(1))
    (parts / part_name(2)).unlink()
    with pytest.raises(ModelFileError):
        open_checkpoint(parts)
    with pytest.raises(SystemExit) as end:
        main(["tokenize", "-m", str(parts), "hello", "--json"])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ids"], found["model"]) == (want, "m")


def test_doctor_says_that_the_demo_model_is_cut_short(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(parts / part_name(2))
    monkeypatch.setattr(machine, "DEFAULT_MODEL", str(parts))
    assert "a download that was cut short?" in machine.examine()["demo model"][str(parts)]


def test_a_tokenizer_of_every_kind_of_model(whole: Path, tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "f", tiny.BASE, tiny.random_weights(tiny.BASE))
    (folder / "model.safetensors").unlink()
    assert open_tokenizer(folder)[1] == "f"
    assert open_tokenizer(whole)[1] == "m"
    assert open_tokenizer("dummy:smollm2-135m@q8_0")[1] == "smollm2-135m@q8_0"
