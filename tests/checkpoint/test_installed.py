"""Models that come as Python packages: found without running them, joined once, checked."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from pyroclast.checkpoint.installed import INSTALLED_MODELS, InstalledModel, installed_path
from pyroclast.errors import ModelFileError
from pyroclast_kernels import whole_file

PARTS = [b"first", b"second", b"third"]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three packages with a part each; importing one fails."""
    site = tmp_path / "site"
    for i, data in enumerate(PARTS):
        (site / f"made_up_part{i}" / "data").mkdir(parents=True)
        (site / f"made_up_part{i}" / "__init__.py").write_text("raise RuntimeError('was run')")
        (site / f"made_up_part{i}" / "data" / f"x.part{i}").write_bytes(data)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = InstalledModel(
        "made-up",
        tuple((f"made_up_part{i}", "data/*.part*") for i in range(3)),
        "made-up.gguf",
        hashlib.sha256(b"".join(PARTS)).hexdigest(),
    )
    monkeypatch.setitem(INSTALLED_MODELS, "made-up", model)
    return site


def test_parts_are_joined_once(packages: Path) -> None:
    path = installed_path("made-up")
    assert path.read_bytes() == b"".join(PARTS)
    before = path.stat().st_mtime_ns
    assert installed_path("made-up") == path
    assert path.stat().st_mtime_ns == before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_was_cut_short_is_joined_again(packages: Path) -> None:
    path = installed_path("made-up")
    path.write_bytes(b"first")
    assert installed_path("made-up").read_bytes() == b"".join(PARTS)


def test_other_content_is_refused_and_leaves_nothing(packages: Path) -> None:
    (packages / "made_up_part1" / "data" / "x.part1").write_bytes(b"other!")
    with pytest.raises(ModelFileError, match="SHA-256"):
        installed_path("made-up")
    assert list((packages.parent / "cache" / "pyroclast" / "models").iterdir()) == []


def test_a_missing_part_says_what_to_install(packages: Path) -> None:
    (packages / "made_up_part2" / "data" / "x.part2").unlink()
    with pytest.raises(ModelFileError) as raised:
        installed_path("made-up")
    assert str(raised.value).endswith("pip install made-up")
    [other] = raised.value.__notes__
    assert "hf:ORG/REPO" in other


def test_a_full_disk_is_said(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.os, "fsync", full)
    with pytest.raises(ModelFileError, match="No space left on device"):
        installed_path("made-up")
