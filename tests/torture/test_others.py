"""Files of other programs become bases of mutations where a folder of them is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from torture import bases, others
from torture.cases import Cases
from torture.files import Configs, GGUFFiles, Safetensors, TokenizerFiles, Vocabularies

CLASSES: dict[type[Cases], str] = {
    GGUFFiles: "images",
    Vocabularies: "images",
    Configs: "trees",
    TokenizerFiles: "trees",
    Safetensors: "trees",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = bases.write_folder(tmp_path / "given")
    image = bases.gguf_images(tmp_path)[0]
    (made / "theirs.gguf").write_bytes(image.to_bytes())
    return made


@pytest.mark.parametrize("kind", CLASSES)
def test_each_file_of_theirs_is_a_base(
    kind: type[Cases], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for named in (None, folder):
        if named:
            monkeypatch.setenv(others.VARIABLE, str(named))
        work = tmp_path / f"work-{named is None}"
        work.mkdir()
        monkeypatch.chdir(work)
        sizes.append(len(getattr(kind(), CLASSES[kind])))
    assert sizes[1] > sizes[0] > 0


def test_large_files_are_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(others.VARIABLE, str(folder))
    monkeypatch.setattr(others, "_MAX_DATA_BYTES", 100)
    assert [len(image.data) for image in others.gguf_images()] == [100]
    monkeypatch.setattr(others, "_MAX_TOKENS", 100)
    assert others.gguf_images() == []
    (folder / "config.json").write_text(json.dumps({"a": "x" * others._MAX_JSON_BYTES}))
    assert others.json_trees("config.json") == []
