"""safetensors files as hostile input: whatever is wrong is a ModelFileError that names it."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError
from pyroclast.files.safetensors import SafetensorsFile


def build(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    return length.to_bytes(8, "little") + text + data


def entry(
    dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def open_bytes(folder: Path, content: bytes) -> SafetensorsFile:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    return SafetensorsFile(str(path))


def test_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float16),
        "c": np.zeros((0, 4), dtype=np.int64),
    }
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata={"format": "np"})
    file = SafetensorsFile(str(path))
    assert set(file.tensors) == set(tensors)
    for name, values in tensors.items():
        info = file.tensors[name]
        assert info.shape == values.shape
        assert file.file.read(info.offset, info.n_bytes, info.name) == values.tobytes()
    assert [file.tensors[name].format for name in "abc"] == ["f32", "f16", None]


DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "seven bytes": (b"\0" * 7, "7 bytes are too few"),
    "header length": (build({}, length=2**64 - 1), "the header claims 18446744073709551615 bytes"),
    "header past the end": (build({}, length=3), "the header claims 3 bytes; the file has 10"),
    "no JSON": (build(b"{"), "header: not valid JSON"),
    "half a character": (build({"\ud800": entry()}), "header: not valid JSON: .*surrogates"),
    "no UTF-8": (build(b'{"\xff": 1}'), "header: not valid JSON"),
    "deep": (build(b"[" * 200_000), "header: not valid JSON"),
    "no object": (build([1]), "header: must be a JSON object, got list"),
    "no entry": (build({"a": 3}), "tensor 'a': its entry must be an object, got 3"),
    "no dtype": (build({"a": {}}), "'a' has dtype None; known: BOOL"),
    "dtype": (build({"a": entry("F31")}), "'a' has dtype 'F31'"),
    "dtype list": (build({"a": entry(["F32"])}), "'a' has dtype"),
    "shape": (build({"a": entry(shape=3)}), "'a' has shape 3"),
    "negative shape": (build({"a": entry(shape=[-2])}), r"'a' has shape \[-2\]"),
    "shape of floats": (build({"a": entry(shape=[2.0])}), r"'a' has shape \[2.0\]"),
    "shape of booleans": (build({"a": entry(shape=[True])}), r"'a' has shape \[True\]"),
    "many dimensions": (build({"a": entry(shape=[1] * 9)}), "'a' has shape"),
    "huge dimension": (build({"a": entry(shape=[2**70])}), "'a' has shape"),
    "overflowing product": (
        build({"a": entry(shape=[2**62, 2**62])}, bytes(8)),
        "takes 85070591730234615865843651857942052864 bytes, data_offsets give 8",
    ),
    "no offsets": (build({"a": entry(offsets=None)}), "'a' has data_offsets None"),
    "one offset": (build({"a": entry(offsets=[0])}), r"'a' has data_offsets \[0\]"),
    "negative offset": (build({"a": entry(offsets=[-8, 0])}, bytes(8)), r"data_offsets \[-8, 0\]"),
    "reversed offsets": (build({"a": entry(offsets=[8, 0])}, bytes(8)), "data_offsets give -8"),
    "size": (build({"a": entry(shape=[3])}, bytes(8)), "takes 12 bytes, data_offsets give 8"),
    "past the end": (
        build({"a": entry()}, bytes(7)),
        "'a' spans bytes 69 to 77, but the file ends at 76",
    ),
    "overlap": (
        build({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
        "tensors 'a' and 'b' overlap",
    ),
    "name twice": (
        build(b'{"a": {"dtype": "F32"}, "a": {"dtype": "F32"}}'),
        "the name 'a' is repeated",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(tmp_path: Path, what: str) -> None:
    content, message = DAMAGE[what]
    with pytest.raises(ModelFileError, match=message) as caught:
        open_bytes(tmp_path, content)
    assert "x.safetensors" in str(caught.value)


def test_cuts_and_flips_raise_nothing_else(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "m", tiny.BASE, tiny.random_weights(tiny.BASE), "float16")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    cuts = (*range(0, header_end, 3), *range(header_end, len(content), 997), len(content) - 1)
    for cut in sorted(cuts, reverse=True):
        os.truncate(path, cut)
        with pytest.raises(ModelFileError):
            open_checkpoint(folder)
    generator = random.Random(0)
    n_refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 2, 8))):
            damaged[generator.randrange(header_end)] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            with open_checkpoint(folder) as checkpoint:
                for weight in checkpoint.tensors.values():
                    assert weight.float32().shape == weight.shape
        except ModelFileError:
            n_refused += 1
    assert n_refused > 100
