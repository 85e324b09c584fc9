"""A run's folder: whole or not at all, of one run and one process; its log."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyroclast.errors import TrainingError
from pyroclast.train.curve import save
from pyroclast.train.log import RunLog, read_lines
from pyroclast.train.result import Result, write_result
from pyroclast.train.run_folder import RunFolder

SETTINGS = {"steps": 3, "rate": 0.5}


def write_step(folder: RunFolder, step: int, error: BaseException | None = None) -> None:
    with folder.writing_step(step) as part:
        (part / "weights").write_text(str(step))
        if error is not None:
            raise error


def test_the_newest_checkpoint_stays(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", "a", SETTINGS) as folder:
        assert folder.checkpoint() is None
        for step in (0, 9, 10):
            write_step(folder, step)
        assert folder.checkpoint() == (10, tmp_path / "run" / "step-10")
        assert sorted(path.name for path in folder.path.iterdir()) == ["run.json", "step-10"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_what_stops_a_writer_leaves_the_checkpoint_before(
    tmp_path: Path, error: BaseException
) -> None:
    with RunFolder(tmp_path, "a", SETTINGS) as folder:
        write_step(folder, 1)
        with pytest.raises((TrainingError, KeyboardInterrupt)) as raised:
            write_step(folder, 2, error)
        if isinstance(raised.value, TrainingError):
            assert "No space left; " in str(raised.value)
            assert "step-1 is whole; the same command resumes" in str(raised.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "step-1"]
        assert (tmp_path / "step-1" / "weights").read_text() == "1"


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "a", SETTINGS) as folder:
        for text in ("old", "new"):
            with folder.writing("final") as part:
                (part / text).write_text(text)
        assert [path.name for path in folder.final.iterdir()] == ["new"]


def test_files_are_readable_as_the_folder_is(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with RunFolder(tmp_path / "run", "a", SETTINGS) as folder, folder.writing("final") as part:
            (part / "weights").touch(0o600)
        assert (folder.final / "weights").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-2.0a.new.part").mkdir(parents=True)
    RunFolder(tmp_path, "a", SETTINGS).close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_other_runs_are_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path, "a", SETTINGS).close()
    RunFolder(tmp_path, "a", SETTINGS).close()
    with pytest.raises(TrainingError, match=r"holds a run with rate 0.5, not 0.25; give the same"):
        RunFolder(tmp_path, "a", SETTINGS | {"rate": 0.25})
    with pytest.raises(TrainingError, match="holds a run of 'a', not of 'b'"):
        RunFolder(tmp_path, "b", SETTINGS)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json: cannot be read"):
        RunFolder(tmp_path, "a", SETTINGS)


@pytest.mark.parametrize("derived", ["base", "tokenizer", "start", "adapter"])
def test_a_run_that_did_not_begin_leaves_no_settings(tmp_path: Path, derived: str) -> None:
    def fail(rate: float, name: str) -> None:
        with RunFolder(tmp_path, "a", SETTINGS | {"rate": rate}) as folder:
            with folder.writing(name) as part:
                (part / "x").write_text("")
            raise TrainingError("refused")

    with pytest.raises(TrainingError, match="refused"):
        fail(0.5, derived)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TrainingError, match="refused"):
        fail(0.25, "step-1")
    with pytest.raises(TrainingError, match=r"holds a run with rate 0.25, not 0.5"):
        RunFolder(tmp_path, "a", SETTINGS)
    assert (tmp_path / "step-1" / "x").exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(TrainingError, match=r"holds 'thesis.txt' and no training run"):
        RunFolder(tmp_path, "a", SETTINGS)
    with pytest.raises(TrainingError, match=r"cannot be the run's folder: "):
        RunFolder(tmp_path / "thesis.txt", "a", SETTINGS)


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, "a", SETTINGS)
    with pytest.raises(TrainingError, match="another process trains in this folder"):
        RunFolder(tmp_path, "a", SETTINGS)
    first.close()
    RunFolder(tmp_path, "a", SETTINGS).close()


def test_a_resumed_log_goes_on_after_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[object] = []
    with RunLog(tmp_path, 4, on_line=seen.append) as log:
        for step in (1, 2, 3):
            log.step(step, 0.5 / step, 100, learning_rate=0.1)
        log.sample(0, "nothing", perplexity=9.0)
        log.sample(3, "something")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed in the middle of a line
    with RunLog(tmp_path, 4, first_step=2, wanted=True) as log:
        log.step(3, 0.25, 100)
        assert "loss 0.250" in capsys.readouterr().err
    lines = read_lines(tmp_path / "log.jsonl")
    assert lines[:2] == seen[:2]
    assert [(each["step"], each["loss"]) for each in lines] == [(1, 0.5), (2, 0.25), (3, 0.25)]
    assert all(line["tokens_per_s"] * line["seconds"] == pytest.approx(100) for line in lines)
    assert [line["text"] for line in read_lines(tmp_path / "samples.jsonl")] == ["nothing"]
    assert json.loads((tmp_path / "samples.jsonl").read_text())["perplexity"] == 9.0


class _Figure:
    def savefig(self, file: Any, **_: Any) -> None:
        file.write(b"<svg/>")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("log.jsonl", lambda folder: RunLog(folder, 2).step(1, 0.5, 10)),
        ("samples.jsonl", lambda folder: RunLog(folder, 2).sample(1, "text")),
        ("result.json", lambda folder: write_result(folder, Result("", {}, {}))),
        ("curve.svg", lambda folder: save(_Figure(), folder / "curve.svg")),
    ],
)
def test_a_small_file_that_cannot_be_written_says_how_to_go_on(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path)
    assert (tmp_path / name).stat().st_size > 0
    gone = tmp_path / "gone"
    with pytest.raises(TrainingError) as raised:
        write(gone)
    said = f"{gone / name}: cannot be written: No such file or directory; the same command resumes"
    assert str(raised.value).startswith(said)
