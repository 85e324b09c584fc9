"""A report of measurements: one HTML file and PNGs, from the result files of a folder.

The same files give the same report, byte for byte: nothing of the time or place of its making is in
it.  All inputs are read and checked, and all is drawn, before anything is written.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyroclast.errors import PyroclastError
from pyroclast.lab.report.change import Comparison, compare
from pyroclast.lab.report.data import EngineRow, Inputs, read_commit, read_folder
from pyroclast.lab.report.git import Commit
from pyroclast.lab.report.page import Against, page
from pyroclast.lab.report.png import CHARTS, matplotlib, write_pngs

PAGE = "index.html"


class ReportError(PyroclastError):
    """A report cannot be written where it should be."""


@dataclass(frozen=True)
class Report:
    """What was written."""

    page: Path
    pngs: tuple[Path, ...]
    inputs: Inputs
    against: Against | None


def write_report(results: Path, out: Path, revision: str | None = None) -> Report:
    """Writes `out`/index.html and PNGs of the results, which are a folder or a kernels file.

    revision: a commit to hold them against.  ResultFileError, RevisionError, NoMatplotlibError and
    ReportError say what is wrong; the old report stays as it was then."""
    matplotlib()  # before the reading, which takes longer
    inputs = read_folder(results)
    against = _against(results, inputs, revision) if revision is not None else None
    content = page(inputs, against)
    comparison = against.comparison if against else None
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".report-") as folder:
            made = Path(folder)
            pngs = write_pngs(inputs, comparison, made)
            (made / PAGE).write_text(content, encoding="utf-8")
            for path in sorted(made.iterdir()):
                os.replace(path, out / path.name)
        # What an earlier report drew and this one did not, such as a change, is of that one.
        for name in set(CHARTS) - {path.stem for path in pngs}:
            (out / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {error}") from error
    return Report(out / PAGE, tuple(out / path.name for path in pngs), inputs, against)


def _against(results: Path, inputs: Inputs, revision: str) -> Against:
    folder = results if results.is_dir() else results.parent
    commit = Commit(folder, revision)
    old = read_commit(results, commit, inputs.kernels_file)
    comparison = _compare(old, inputs)
    return Against(revision, commit.name, comparison)


def _compare(old: Inputs, new: Inputs) -> Comparison:
    return compare(old.kernels, new.kernels, _engine_rows(old), _engine_rows(new))


def _engine_rows(inputs: Inputs) -> list[EngineRow]:
    return [row for file in inputs.engines for row in file.rows]
