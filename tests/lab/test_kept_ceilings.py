"""Ceilings that `kernels check` takes from an earlier run instead of measuring them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyroclast.lab.check.inputs import cache_bytes
from pyroclast.lab.speed import kept_ceilings, run
from pyroclast.lab.speed.machine import read_size
from pyroclast.lab.speed.rows import MeasuredCeiling
from pyroclast.lab.speed.run import Run, Settings, plan

SIZE = 3 << 20
MEMORY = read_size(4 * cache_bytes())


def read(value: float, n_bytes: int, n_threads: int = 2) -> MeasuredCeiling:
    return MeasuredCeiling("read", n_threads, value, "GB/s", n_bytes, "x")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pyroclast" / "ceilings"


def test_the_best_of_each_is_kept() -> None:
    assert kept_ceilings.known(2, [SIZE]) == []
    kept_ceilings.keep([read(30, MEMORY), read(80, read_size(SIZE))])
    kept_ceilings.keep([read(40, MEMORY), read(70, read_size(SIZE))])
    assert {each.value for each in kept_ceilings.known(2, [SIZE])} == {40, 80}


def test_only_what_is_complete_is_taken() -> None:
    kept_ceilings.keep([read(30, MEMORY)])
    assert kept_ceilings.known(2, []) and not kept_ceilings.known(1, [])
    assert kept_ceilings.known(2, [SIZE]) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]"])
def test_a_damaged_file_holds_nothing(folder: Path, text: str) -> None:
    kept_ceilings.keep([read(30, MEMORY)])
    [path] = folder.iterdir()
    path.write_text(text)
    assert kept_ceilings.known(2, []) == []


def test_ceilings_of_an_older_version_are_measured_again(folder: Path) -> None:
    """They know nothing of matrix registers."""
    kept_ceilings.keep([read(30, MEMORY)])
    [path] = folder.iterdir()
    path.write_text(path.read_text().replace('"schema": 3', '"schema": 2'))
    assert kept_ceilings.known(2, []) == []
    kept_ceilings.keep([read(20, MEMORY)])
    assert [each.value for each in kept_ceilings.known(2, [])] == [20]


class FakeChild:
    """Measures the ceilings at once, and finds every kernel wrong."""

    asked: list[str]

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads

    def __enter__(self) -> FakeChild:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stop(self) -> None:
        pass

    def ask(self, job: dict[str, Any], timeout_s: float) -> Any:
        assert timeout_s > 0
        self.asked.append(job["do"])
        if job["do"] == "measure":
            return {"errors": ["wrong"], "accuracy": {}}
        sizes = {read_size(size) for size in job["sizes"]} | {MEMORY}
        return [vars(read(30, size, self.n_threads)) for size in sizes]


def test_a_run_that_keeps_them_measures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Child", FakeChild)
    asked = []
    for keeps in (True, True, False):
        FakeChild.asked = []
        settings = Settings(["norm"], ["f32"], ["numpy"], ["1x2048"], keeps_ceilings=keeps)
        measured = Run(settings, plan(settings))
        would = measured.measures_ceilings()
        for _ in measured.measure():
            pass
        asked.append(FakeChild.asked)
        assert would == ("ceilings" in FakeChild.asked)
        assert measured.results().ceilings
    assert asked == [["ceilings", "measure"], ["measure"], ["ceilings", "measure", "ceilings"]]
