"""The report: what counts as a change, against a commit and by the command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyroclast.lab.report.change import compare, noise_bound
from pyroclast.lab.report.data import read_folder
from pyroclast.lab.report.git import Commit, RevisionError
from pyroclast.lab.report.html import TIMES
from pyroclast.lab.report.report import write_report
from pyroclast.lab.speed.rows import ResultFileError, Results
from report_results import ROWS, Page, edited, engine, failed, make_row, write_results

# ---- what counts as a change -------------------------------------------------------------------


def change_of(
    old: dict[str, Any], new: dict[str, Any], machine: str = "this one"
) -> tuple[str, str]:
    before = Results((make_row(**old),), environment={"cpu_fingerprint": "this one"})
    after = Results((make_row(**new),), environment={"cpu_fingerprint": machine})
    [found] = compare(before, after, [], []).changes
    return found.speed, found.numerics


@pytest.mark.parametrize(
    ("old", "new", "speed"),
    [
        ({}, {"median_us": 1.0}, "faster"),
        ({}, {"median_us": 4.0}, "slower"),
        ({}, {"median_us": 2.08}, "same"),  # within 5%
        ({"iqr_us": 0.4}, {"median_us": 1.7}, "same"),  # its spread was 20%
        ({}, {"median_us": 1.7, "iqr_us": 0.34}, "same"),  # and now it is
        ({}, {"median_us": 2.5, "anchor_drift": 0.3}, "same"),
        ({}, {"median_us": 2.5, "anchor_us": 130.0}, "same"),
    ],
)
def test_only_what_noise_cannot_be_is_marked(
    old: dict[str, Any], new: dict[str, Any], speed: str
) -> None:
    assert change_of(old, new) == (speed, "same")
    assert change_of(old, new, "another one") == ("other machine", "same")


@pytest.mark.parametrize(
    ("new", "numerics"),
    [
        ({"error_share": 0.5, "max_abs_error": 2e-6}, "worse"),
        ({"error_share": 0.1, "max_abs_error": 4e-7}, "better"),
        ({"error_share": 0.26}, "other bits"),
        ({"nmse": 2e-12}, "other bits"),
        ({"status": "crashed", "median_us": None, "error_share": None}, "broken"),
    ],
)
def test_numerics_are_held_against_each_other(new: dict[str, Any], numerics: str) -> None:
    assert change_of({}, new)[1] == numerics
    opposite = {"worse": "better", "better": "worse", "broken": "fixed"}
    assert change_of(new, {})[1] == opposite.get(numerics, numerics)


def test_the_bound_grows_with_what_is_known_of_the_noise() -> None:
    quiet = make_row()
    assert noise_bound(quiet, quiet) == 0.05
    assert noise_bound(quiet, make_row(iqr_us=0.2)) == pytest.approx(0.01 + 0.1)
    assert noise_bound(quiet, make_row(anchor_us=50.0)) == pytest.approx(0.02 + 1)


def test_engines_of_two_machines_are_not_compared(tmp_path: Path) -> None:
    folder, verdicts = write_results(tmp_path, ROWS), []
    for changes in ({}, {"median_ts": 150.0}, {"median_ts": 150.0, "cpu": "another"}):
        (folder / "engine_a.json").write_text(json.dumps(engine(**changes)))
        verdicts.append(read_folder(folder).engines[0].rows)
    found = [compare(Results(()), Results(()), verdicts[0], new).engines for new in verdicts]
    assert [[each.speed for each in engines] for engines in found] == [["same"], ["faster"], []]


def test_engines_are_held_against_the_same_machine_and_file(tmp_path: Path) -> None:
    """Whatever order the files are in: two of this machine, one of another."""
    folder = write_results(tmp_path, ROWS)
    speeds = {"a": (100.0, "this"), "b": (200.0, "other"), "c": (300.0, "this")}
    for name, (median, cpu) in speeds.items():
        (folder / f"engine_{name}.json").write_text(json.dumps(engine(median_ts=median, cpu=cpu)))
    rows = [row for file in read_folder(folder).engines for row in file.rows]
    found = compare(Results(()), Results(()), rows[::-1], rows).engines
    assert len(found) == len(rows)
    assert all(change.old == change.new for change in found)


def test_rows_of_one_side_are_counted() -> None:
    found = compare(
        Results((make_row(), make_row(case="a"))), Results((make_row(case="b"),)), [], []
    )
    assert (found.n_new, found.n_gone, found.changes) == (1, 2, ())


def test_the_spread_comes_from_quartiles_or_older_files_runs(tmp_path: Path) -> None:
    folder = write_results(tmp_path, ROWS)
    new = engine(low_ts=90.0, high_ts=120.0, n_samples=5)
    del new["rows"][0]["samples_ts"]
    single = json.loads(json.dumps(new))
    single["rows"][0]["n_samples"] = 1
    old = engine(samples_ts=[80.0, 90.0, 100.0, 120.0, 200.0])
    for content, spread in ((new, 0.3), (old, 0.3), (single, 1.0), (engine(samples_ts=[]), 1.0)):
        (folder / "engine_a.json").write_text(json.dumps(content))
        [file] = read_folder(folder).engines
        assert file.rows[0].spread == pytest.approx(spread)
    del new["rows"][0]["low_ts"]
    (folder / "engine_a.json").write_text(json.dumps(new))
    with pytest.raises(ResultFileError, match="lacks 'low_ts'"):
        read_folder(folder)


# ---- against a commit --------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A commit with results, and newer ones in the working tree: one faster, one wrong."""
    folder = write_results(tmp_path / "repo" / "bench" / "results", ROWS[:3])
    (folder / "engine_a.json").write_text(json.dumps(engine()))
    git(tmp_path, "init", "-q", "repo")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "results")
    write_results(folder, (make_row(median_us=1.0), failed(variant="numpy", error_share=2.0)))
    fast = engine(median_ts=150.0, samples_ts=[149.0, 150.0, 151.0])
    (folder / "engine_a.json").write_text(json.dumps(fast))
    return folder


def test_against_a_commit(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = write_report(repository, tmp_path / "out", "HEAD")
    assert report.against is not None
    comparison = report.against.comparison
    assert comparison.counts["faster"] == 1 and comparison.counts["numerics broken"] == 1
    assert [change.speed for change in comparison.engines] == ["faster"]
    # What went wrong has a row for warm caches, too; the other kernel's warm row is gone.
    assert (comparison.n_new, comparison.n_gone) == (1, 1)
    text = Page(report.page.read_text()).text
    assert "Change since HEAD" in text and f"2.00{TIMES} faster" in text and "broken" in text
    assert "change.png" in {path.name for path in report.pngs}
    write_report(repository, tmp_path / "out")
    assert not (tmp_path / "out" / "change.png").exists()


def test_results_of_the_commit_may_be_refused_too(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    edited(repository, version=0)
    git(repository, "commit", "-qam", "old")
    write_results(repository, ROWS)
    with pytest.raises(ResultFileError, match=r"HEAD:.*has version 0"):
        write_report(repository, tmp_path / "out", "HEAD")
    git(repository, "rm", "-q", "--cached", "kernels.json")
    git(repository, "commit", "-qm", "gone")
    with pytest.raises(ResultFileError, match=r"has no kernels\.json"):
        write_report(repository, tmp_path / "out", "HEAD")


@pytest.mark.parametrize(
    "revision",
    ["", "--output=x", "-p", "HEAD; touch x", "HEAD:bench", "a b", "$(id)", "HEAD\nx", "a" * 300],
)
def test_a_revision_is_no_option_no_path_and_no_command(repository: Path, revision: str) -> None:
    with pytest.raises(RevisionError, match="is not a revision"):
        Commit(repository, revision)


def test_an_unknown_revision_and_no_repository(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(RevisionError, match="no such commit"):
        Commit(repository, "nothing-like-it")
    with pytest.raises(RevisionError, match=r"no such commit.*not a git repository"):
        Commit(tmp_path, "HEAD")
    with pytest.raises(RevisionError, match=r"no gone\.json: .*exist"):
        Commit(repository, "HEAD").read("gone.json")
    assert Commit(repository, "HEAD~0").files() == ["engine_a.json", "kernels.json"]


# ---- the command -------------------------------------------------------------------------------


def test_the_command(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    from pyroclast.cli.main import main

    words = ["bench", "report", "--results", str(repository), "--against", "HEAD"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "out"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert found["against"]["counts"]["numerics broken"] == 1
    assert {c["speed"] for c in found["against"]["changes"]} == {"faster", "no longer timed"}
    with pytest.raises(SystemExit):
        main(words)
    assert "wrote" in capsys.readouterr().out
    assert (repository / "report" / "index.html").exists()
    with pytest.raises(SystemExit) as ended:
        main(["bench", "report", "--results", str(tmp_path / "none")])
    assert ended.value.code == 1
    assert "pyroclast: error:" in capsys.readouterr().err
