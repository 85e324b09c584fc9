"""Strings of GGUF files in native code, against the same in Python."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from pyroclast.errors import ModelFileError, TokenizerError
from pyroclast.files import gguf_metadata
from pyroclast.files.model_file import ModelFile
from pyroclast.text import gguf_keys
from pyroclast_kernels.native import strings

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(strings.load_executor() is None, reason="the executor was not built"),
]
TEXTS = ["", "a", "Ġthe", "日本", "\0" * 9, "x" * 300, "\U0001f525"]


def stored(texts: list[str]) -> bytes:
    return b"".join(len(t.encode()).to_bytes(8, "little") + t.encode() for t in texts)


@pytest.mark.parametrize("texts", [[], [""], TEXTS, TEXTS * 50])
def test_strings_are_decoded(texts: list[str]) -> None:
    assert strings.decode(stored(texts), len(texts)) == texts
    assert strings.step_over(stored(texts), 0, len(texts)) == (len(texts), len(stored(texts)))


def test_only_whole_strings_are_stepped_over() -> None:
    data, end = stored(TEXTS), len(stored(TEXTS[:3]))
    assert strings.step_over(data[: end + 7], 0, 9) == (3, end)
    assert strings.step_over(data[: end + 8], 0, 9) == (3, end)
    assert strings.step_over(data, 0, 3) == (3, end)
    assert strings.step_over(data, end, 1) == (1, len(stored(TEXTS[:4])))
    for length in (1 << 31, 1 << 63, (1 << 64) - 1, (1 << 64) - 8):
        assert strings.step_over(length.to_bytes(8, "little") * 2, 0, 2) == (0, 0)
    with pytest.raises(IndexError):
        strings.step_over(data, len(data) + 1, 1)
    with pytest.raises(IndexError):
        strings.step_over(data, -1, 1)


@pytest.mark.parametrize("count", [-1, len(TEXTS) - 1, len(TEXTS) + 1, 1 << 40, (1 << 63) - 1])
def test_a_false_count_is_no_list(count: int) -> None:
    assert strings.decode(stored(TEXTS), count) is None


def test_native_code_and_python_walk_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over windows that end anywhere, of arrays that are whole, cut or damaged."""
    rng = random.Random(1)
    monkeypatch.setattr(gguf_metadata, "_WINDOW_BYTES", 64)

    def outcome(path: Path, count: int) -> int | str:
        with closing(ModelFile(path)) as file:
            cursor = gguf_metadata.Cursor(file)
            try:
                gguf_metadata._walk_strings(cursor, count, "tokens")
            except ModelFileError as error:
                return str(error)
            return cursor.position

    native, ends = strings._native, set()
    for i in range(200):
        texts = rng.choices(TEXTS, k=rng.randrange(1, 30))
        data = bytearray(stored(texts))
        if i % 3 == 1:
            del data[rng.randrange(1, len(data) + 1) :]
        elif i % 3 == 2:
            data[rng.randrange(len(data))] = rng.randrange(256)
        path = tmp_path / str(i)
        path.write_bytes(data)
        count = len(texts) + (i % 7 == 0)
        monkeypatch.setattr(strings, "_native", native)
        found = outcome(path, count)
        monkeypatch.setattr(strings, "_native", None)
        assert found == outcome(path, count)
        ends.add(type(found))
    assert ends == {int, str}


def test_damaged_strings_are_what_python_takes_them_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte is another: the same strings, or the same error."""
    data, rng = stored(TEXTS), random.Random(0)

    def outcome(damaged: bytes) -> list[str] | str:
        try:
            return gguf_metadata._decode_strings(damaged, len(TEXTS), "m.gguf: 'tokens'")
        except ModelFileError as error:
            return str(error)

    damaged = [bytearray(data) for _ in range(300)]
    for each in damaged:
        each[rng.randrange(len(each))] = rng.randrange(256)
    found = [outcome(bytes(each)) for each in damaged]
    monkeypatch.setattr(strings, "_native", None)
    assert found == [outcome(bytes(each)) for each in damaged]
    assert {type(each) for each in found} == {list, str}
    assert any("not valid UTF-8" in each for each in found)
    assert strings.step_over(data, 8, 3) == (0, 8)


LINES = ["a b", "Ġt he", "  x", " b c", "a b c", "日 本", "a ", "\U0001f525 \U0001f525", "\0 \0"]


def test_pairs_are_split_as_python_splits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [(line[: line.index(" ", 1)], line[line.index(" ", 1) + 1 :]) for line in LINES]
    assert strings.split_pairs(LINES * 9) == expected * 9
    assert strings.split_pairs([]) == []
    metadata = {"tokenizer.ggml.merges": LINES}
    assert gguf_keys.merges(metadata) == expected
    monkeypatch.setattr(strings, "_native", None)
    assert gguf_keys.merges(metadata) == expected


@pytest.mark.parametrize("wrong", ["", " ", "ab", " ab", None, 5, ["a b"]])
def test_what_is_no_pair_is_refused(wrong: object) -> None:
    lines: list[object] = ["a b", wrong]
    assert strings.split_pairs(lines) is None  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="merges must be pairs"):
        gguf_keys.merges({"tokenizer.ggml.merges": lines})


def test_only_lists_have_pairs() -> None:
    assert strings.split_pairs(("a b",)) is None  # type: ignore[arg-type]
