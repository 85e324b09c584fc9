"""The report: which result files it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyroclast.errors import PyroclastError
from pyroclast.lab.report import png as report_png
from pyroclast.lab.report.data import read_folder
from pyroclast.lab.report.report import write_report
from pyroclast.lab.speed.rows import ResultFileError
from report_results import ROWS, edited, engine, write_results


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 99}, "has version 99"),
        ({"n_rows": 7}, "is cut: it promises 7 rows"),
        ({"schema": "other"}, "not a result of `pyroclast bench kernels`"),
    ],
)
def test_another_version_and_a_cut_file_are_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ResultFileError, match=words):
        read_folder(edited(write_results(tmp_path, ROWS), **changes))


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = write_results(tmp_path, ROWS) / "kernels.json"
    path.write_text(path.read_text()[:900])
    with pytest.raises(ResultFileError, match=r"kernels\.json is cut or damaged"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("median_us", float("nan")), ("median_us", 0.0), ("iqr_us", -1.0), ("iqr_us", 10**400)],
)
def test_numbers_that_cannot_be_drawn_are_refused(tmp_path: Path, field: str, value: float) -> None:
    folder = write_results(tmp_path, ROWS)
    content = json.loads((folder / "kernels.json").read_text())
    [case] = content["cases"]
    case["rows"][0][content["columns"].index(f"cold_{field}")] = value
    edited(folder, cases=[case])
    with pytest.raises(ResultFileError, match=f"is damaged: {field} is"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "has no made_with"),
        ({"made_with": {}}, "has no rows"),
        (engine(median_ts=0), "above 0"),
        (engine(peers={"p": {"best": "a", "variants": {}}}), "lacks 'a'"),
        (engine(peers=[1]), "items"),
    ],
)
def test_engine_rows_that_are_none_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    (write_results(tmp_path, ROWS) / "engine_a.json").write_text(json.dumps(content))
    with pytest.raises(ResultFileError, match=f"not a result of bench/engine.py: .*{words}"):
        read_folder(tmp_path)


def test_suites_are_read_like_single_runs(tmp_path: Path) -> None:
    parts = {"a": {"result": engine()}, "b": {"left_out": "no time"}, "c": {"result": {"x": 1}}}
    suite = {"made_with": {"suite": "cpu"}, "parts": parts}
    (write_results(tmp_path, ROWS) / "engine_suite.json").write_text(json.dumps(suite))
    [file] = read_folder(tmp_path).engines
    assert [row.label for row in file.rows] == ["tiny q8_0"]


def test_a_folder_without_results_says_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match="pyroclast bench kernels --out"):
        read_folder(tmp_path)
    with pytest.raises(ResultFileError, match="does not exist"):
        read_folder(tmp_path / "nowhere")


def test_of_several_kernel_files_one_must_be_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path, ROWS)
    (folder / "kernels.json").rename(folder / "kernels_a.json")
    assert read_folder(folder).kernels_file == "kernels_a.json"
    (folder / "kernels_b.json").write_text("{}")
    with pytest.raises(ResultFileError, match=r"kernels_a\.json, kernels_b\.json: give one"):
        read_folder(folder)
    assert read_folder(folder / "kernels_a.json").kernels_file == "kernels_a.json"


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(report_png.importlib, "import_module", missing)
    with pytest.raises(PyroclastError, match="pip install matplotlib"):
        write_report(write_results(tmp_path / "r", ROWS), tmp_path / "out")
    assert not (tmp_path / "out").exists()
