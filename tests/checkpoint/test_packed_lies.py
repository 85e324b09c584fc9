"""Packed files: an error for every lie, and what their writer makes."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
import tiny_experts
from packed_files import Image, logits, packed_copy, write_gguf
from pyroclast import LLM
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint, open_tokenizer
from pyroclast.checkpoint.packed import NAMES_KEY, VECTOR_KEY
from pyroclast.errors import KernelError, ModelFileError
from pyroclast.families.rope import RopeScaling
from pyroclast.files import packed_file, packed_writer
from pyroclast.files.gguf_writer import Value
from pyroclast.files.packed_file import Entry, PackedFile, is_packed
from pyroclast.files.packed_writer import PackedWriter, header, placed
from pyroclast.model.load_plan import plan
from pyroclast.model.options import LoadOptions
from pyroclast.model.write_packed import write_packed

# ---- experts -------------------------------------------------------------------------------


def test_lies_about_experts(tmp_path: Path) -> None:
    packed = packed_copy(tiny_experts.write_gguf(tmp_path / "m.gguf", tiny_experts.weights()))
    image, both = Image(packed), "layers.0.w_gate_experts+layers.0.w_up_experts"
    up, gate = "layers.0.w_up_experts", "layers.0.w_gate_experts"
    lies = {
        f"{up}+{gate}": "has no product of layers.0.w_gate_experts",
        f"{gate}+layers.0.w_down_experts": "the config calls for",
        f"{gate}+layers.0.wq": "the config calls for",
        gate: "the config calls for",
    }
    for name, message in lies.items():
        changed = [replace(e, name=name) if e.name == both else e for e in image.entries]
        lie = image.write(tmp_path / "lie.pyro", entries=changed)
        with pytest.raises(ModelFileError, match=message):
            logits(lie)
    for shape in ((12 * 2 * 32 * 2, 32), (12 * 32, 128)):
        changed = [replace(e, shape=shape) if e.name == both else e for e in image.entries]
        lie = image.write(tmp_path / "lie.pyro", entries=changed)
        with pytest.raises(ModelFileError, match="the config calls for"):
            logits(lie)


# ---- what is refused -----------------------------------------------------------------------


def test_the_gpu_needs_another_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed_copy(write_gguf(tmp_path / "m.gguf", "q8_0"))
    monkeypatch.setattr("pyroclast.model.device.why_not_cuda", lambda: "")
    monkeypatch.setattr("pyroclast.model.device.why_not_chosen", lambda _: "")
    with open_checkpoint(packed) as checkpoint:
        with pytest.raises(KernelError, match="load the file that it was made from"):
            plan(checkpoint, "cuda", LoadOptions())
        planned = plan(checkpoint, "auto", LoadOptions())
        assert planned.device == "cpu" and "packed for the CPU" in planned.note
        with pytest.raises(ModelFileError, match="use the file that the packed one was made from"):
            checkpoint.tensors["layers.0.wq"].rows()


def test_it_is_not_converted_again(tmp_path: Path) -> None:
    packed = packed_copy(write_gguf(tmp_path / "m.gguf", "f16"))
    with pytest.raises(ModelFileError, match="add --to q8_0 where it is made"):
        open_checkpoint(f"{packed}@q8_0")
    for again in (
        lambda to: convert(str(packed), to, "q8_0"),
        lambda to: write_packed(str(packed), to),
    ):
        with pytest.raises(ModelFileError, match="convert what it was made from"):
            again(str(tmp_path / "again"))


def test_a_folder_of_several_formats_needs_a_choice(tmp_path: Path) -> None:
    weights = tiny.random_weights(tiny.BASE)
    folder = tiny.write_folder(tmp_path / "folder", tiny.BASE, weights, "float16", n_files=2)
    part = folder / "model-00002-of-00002.safetensors"
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    stored = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, info in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__" and names[name] == part.name:
                first, last = (8 + length + each for each in info["data_offsets"])
                values = np.frombuffer(data[first:last], "<f2").reshape(info["shape"])
                stored[name] = values.astype(np.float32)
    tiny.write_safetensors(part, stored, "bfloat16")
    with pytest.raises(ModelFileError, match="formats bf16, f16; --to names one"):
        packed_copy(folder)
    packed_copy(folder, to="q8_0")


def test_nothing_is_left_where_it_cannot_be_written(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", "f16")
    for to in (None, "q8_0"):
        with pytest.raises(ModelFileError, match=r"no such folder|cannot be written"):
            write_packed(str(source), str(tmp_path / "nowhere" / "m.pyro"), to)
    with pytest.raises(ModelFileError, match="cannot convert to 'q9'"):
        write_packed(str(source), str(tmp_path / "m.pyro"), "q9")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


# ---- a table of lies -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed file with a rope vector; its header leaves room for a bit more."""
    config = replace(
        tiny.BASE,
        n_layers=1,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
        max_seq_len=512,
    )
    source = write_gguf(tmp_path_factory.mktemp("packed") / "m.gguf", "q8_0", config)
    return packed_copy(source)


PREFIX_LIES: dict[str, tuple[int, bytes, str]] = {
    "another magic": (0, b"GGUF", "supported: 2, 3"),
    "an older format": (8, struct.pack("<I", 0), "version 0.0 .* unknown.*convert the model again"),
    "a newer format": (8, struct.pack("<I", 2), "version 2.0 .* unknown.*convert the model again"),
    "a foreign byte order": (12, b"\1\2\3\4", "byte order .*convert the model again"),
    "another layout": (
        16,
        struct.pack("<I", 2),
        "have layout 2, .* read 1; convert the model again",
    ),
    "a reserved number": (20, b"\1", "version 1.1 "),
    "no header": (24, struct.pack("<Q", 0), "header should have 0 bytes"),
    "a header beyond the end": (24, struct.pack("<Q", 1 << 62), "header should have 46116860"),
    "a damaged fingerprint": (32, b"\0\0\0\0", "header is damaged"),
    "a damaged key": (100, b"\xff", "header is damaged"),
}


@pytest.mark.parametrize("lie", PREFIX_LIES)
def test_lies_of_the_first_bytes(lie: str, base: Path, tmp_path: Path) -> None:
    at, new, error = PREFIX_LIES[lie]
    data = bytearray(base.read_bytes())
    data[at : at + len(new)] = new
    path = tmp_path / "m.pyro"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=error):
        open_checkpoint(path)


# What is changed of the first product's entry, and the error.
ENTRY_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "an empty name": ({"name": ""}, "empty name"),
    "an unknown name": ({"name": "layers.9.wq"}, "calls for no 'layers.9.wq'"),
    "a name twice in it": ({"name": "output+output"}, "has shape"),
    "an unknown format": ({"format": "q9_9"}, "unknown format 'q9_9'"),
    "a format that is never packed": ({"format": "iq1_s"}, "unknown format 'iq1_s'"),
    "more rows": ({"shape": (336, 96)}, "its shape and format take"),
    "more columns": ({"shape": (320, 128)}, "its shape and format take"),
    "a broken block": ({"shape": (320, 97)}, "needs a multiple of 32 columns"),
    "no rows": ({"shape": (0, 96)}, "has the shape"),
    "so many rows that they overflow": ({"shape": (1 << 63, 1 << 60)}, "its shape and format take"),
    "one dimension": ({"shape": (320,)}, "has 1 dimensions"),
    "three dimensions": ({"shape": (1, 320, 96)}, "has 3 dimensions"),
    "the other layout": ({"layout": "rows"}, "has 2 dimensions"),
    "too short": ({"n_bytes": 64}, "has 64 bytes"),
    "so long that it overflows": ({"n_bytes": (1 << 64) - 1}, "has 18446744073709551615 bytes"),
    "in the header": ({"offset": 0}, "starts at 0"),
    "off its page": ({"offset": 4096 + 64}, "starts at 4160"),
    "beyond the end": ({"offset": 1 << 40}, "the file ends at"),
    "so far that it overflows": ({"offset": (1 << 64) - 4096}, "the file ends at"),
}


@pytest.mark.parametrize("lie", ENTRY_LIES)
def test_lies_of_an_entry(lie: str, base: Path, tmp_path: Path) -> None:
    changes, error = ENTRY_LIES[lie]
    image = Image(base)
    at = next(i for i, entry in enumerate(image.entries) if entry.layout == "packed")
    entries = [replace(e, **changes) if i == at else e for i, e in enumerate(image.entries)]
    with pytest.raises(ModelFileError, match=error):
        open_checkpoint(image.write(tmp_path / "m.pyro", entries=entries))


def test_lies_between_entries(base: Path, tmp_path: Path) -> None:
    image, path = Image(base), tmp_path / "m.pyro"
    first, second, *rest = image.entries
    for entries, error in (
        ([first, first, second, *rest], "a repeated name"),
        ([first, replace(second, offset=first.offset), *rest], "overlap"),
        ([second, *rest], "weight 'token_embd' is missing"),
        ([], "weight 'token_embd' is missing"),
    ):
        with pytest.raises(ModelFileError, match=error):
            open_checkpoint(image.write(path, entries=entries))


def test_a_weight_in_two_entries(base: Path, tmp_path: Path) -> None:
    image = Image(base)
    one = next(entry for entry in image.entries if entry.name == "layers.0.wo")
    twice = replace(
        one,
        name="layers.0.wo+layers.0.wo",
        shape=(2 * one.shape[0], one.shape[1]),
        n_bytes=2 * one.n_bytes,
        offset=image.entries[-1].offset + (1 << 20),
    )
    image.data += bytes(2 << 20)
    with pytest.raises(ModelFileError, match=r"'layers\.0\.wo' is in two entries"):
        open_checkpoint(image.write(tmp_path / "m.pyro", entries=[*image.entries, twice]))


def test_products_of_another_grouping(base: Path, tmp_path: Path) -> None:
    """A version that joins other weights than this one: said when the model is loaded."""
    image, entries = Image(base), []
    for entry in image.entries:
        if entry.name.endswith("w_gate+layers.0.w_up"):
            size = entry.n_bytes // 2
            half = replace(entry, shape=(entry.shape[0] // 2, entry.shape[1]), n_bytes=size)
            entries.append(replace(half, name="layers.0.w_gate"))
            later = image.entries[-1].offset + (1 << 20)
            entries.append(replace(half, name="layers.0.w_up", offset=later))
            image.data += bytes(2 << 20)
        else:
            entries.append(entry)
    path = image.write(tmp_path / "m.pyro", entries=entries)
    with pytest.raises(
        ModelFileError, match=r"no product of layers\.0\.w_gate, .*convert the model"
    ):
        LLM(path, device="cpu", n_blocks=2)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (NAMES_KEY, Value("u32", 1), "must be a list of names"),
        (NAMES_KEY, Value("[u32]", [1]), "must be a list of names"),
        (VECTOR_KEY + "rope_freqs.weight", Value("[u32]", [1]), "must be a list of float numbers"),
        (VECTOR_KEY + "rope_freqs.weight", Value("str", "x"), "must be a list of float numbers"),
        ("general.architecture", Value("str", "what"), "what"),
        ("llama.block_count", Value("u32", 7), "weight 'layers.1.attn_norm' is missing"),
    ],
)
def test_lies_of_the_metadata(
    key: str, value: Value, error: str, base: Path, tmp_path: Path
) -> None:
    image = Image(base)
    assert key in image.metadata
    path = image.write(tmp_path / "m.pyro", metadata=image.metadata | {key: value.to_bytes()})
    with pytest.raises(ModelFileError, match=error):
        open_checkpoint(path)


def test_names_of_tensors_are_needed(base: Path, tmp_path: Path) -> None:
    image = Image(base)
    metadata = {key: value for key, value in image.metadata.items() if key != NAMES_KEY}
    with pytest.raises(ModelFileError, match="must be a list of names, got None"):
        open_checkpoint(image.write(tmp_path / "m.pyro", metadata=metadata))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_file_that_was_cut(share: float, base: Path, tmp_path: Path) -> None:
    data, path = base.read_bytes(), tmp_path / "m.pyro"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelFileError, match=r"m\.pyro"):
        open_checkpoint(path)


def test_a_file_cut_in_its_weights_still_tells(base: Path, tmp_path: Path) -> None:
    data, path = base.read_bytes(), tmp_path / "m.pyro"
    path.write_bytes(data[:-1000])
    with open_checkpoint(path, complete=False) as checkpoint:
        assert checkpoint.missing_bytes == 1000
        assert checkpoint.tokenizer().encode("the")
    assert open_tokenizer(path)[0].encode("the")


def test_damaged_weights_are_found_when_asked_for(base: Path, tmp_path: Path) -> None:
    data, path = bytearray(base.read_bytes()), tmp_path / "m.pyro"
    data[-5000] ^= 1
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint:  # hashing costs more than loading
        packed = checkpoint.packed
        assert packed is not None
        with pytest.raises(ModelFileError, match=r"is not what was written .*SHA-256"):
            packed.file.check_digests()
    with open_checkpoint(base) as checkpoint:
        assert checkpoint.packed is not None
        shown: list[int] = []
        checkpoint.packed.file.check_digests(shown.append)
        assert shown == list(range(1, 1 + len(checkpoint.packed.file.entries)))


def test_the_fingerprint_is_the_contents(base: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.packed is not None
            return checkpoint.packed.file.fingerprint

    image = Image(base)
    same = image.write(tmp_path / "same.pyro")
    assert same.read_bytes() == base.read_bytes()
    entries = [replace(image.entries[0], digest=bytes(32)), *image.entries[1:]]
    assert fingerprint(same) == fingerprint(base)
    assert fingerprint(image.write(tmp_path / "other.pyro", entries=entries)) != fingerprint(base)


def test_what_is_no_packed_file(tmp_path: Path) -> None:
    for path, data in (
        (tmp_path / "a", b""),
        (tmp_path / "b", b"PYROPAC"),
        (tmp_path / "c", b"GGUF"),
    ):
        path.write_bytes(data)
        assert not is_packed(path)
    assert not is_packed(tmp_path) and not is_packed(tmp_path / "none") and not is_packed("a\0b")
    (tmp_path / "d").write_bytes(packed_file.MAGIC)
    assert is_packed(tmp_path / "d")
    with pytest.raises(ModelFileError, match="the first 64 bytes needs 64 bytes"):
        PackedFile(tmp_path / "d")


def test_entries_begin_at_pages_behind_the_header() -> None:
    planned = [Entry(f"e{i}", "f32", "rows", (100,), 400) for i in range(200)]
    found = placed({}, planned)
    assert found[0].offset >= len(header({}, planned)) > 4096
    assert all(entry.offset % 4096 == 0 for entry in found)
    assert [b.offset - a.offset for a, b in pairwise(found)] == [4096] * 199


def test_data_reaches_the_file_in_aligned_chunks(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems make large pages of such writes."""
    monkeypatch.setattr(packed_writer, "_CHUNK_BYTES", 8192)
    source, target = base.with_name("m.gguf"), tmp_path / "m.pyro"
    places: list[tuple[int, int]] = []

    class Noted(io.BytesIO):
        def write(self, data: Any) -> int:
            places.append((self.tell(), len(data)))
            return super().write(data)

    with open_checkpoint(base) as checkpoint:
        assert checkpoint.packed is not None
        entries = list(checkpoint.packed.file.entries.values())
    image, file = Image(base), Noted()
    writer = PackedWriter(file, image.metadata, [replace(e, offset=0) for e in entries])
    for entry in entries:
        writer.add(entry.name, image.data[entry.offset - entries[0].offset :][: entry.n_bytes])
    assert writer.finish() == len(base.read_bytes())
    assert file.getvalue() == base.read_bytes()
    *whole, _, header_again = places
    assert header_again[0] == 0
    assert whole == [(8192 * i, 8192) for i in range(len(whole))] and len(whole) > 5
    write_packed(str(source), str(target), threads=1)
    assert target.read_bytes() == base.read_bytes()
