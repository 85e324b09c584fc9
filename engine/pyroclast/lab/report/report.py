"""Writes a report of measurements: one HTML file and PNGs, from the result files of a folder.

The same files give the same report byte for byte, whenever and wherever it is made.  All inputs are
read and checked, and everything is drawn, before the old report is replaced.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pyroclast.errors import PyroclastError, reason_of
from pyroclast.lab.report.change import Comparison, compare
from pyroclast.lab.report.data import EngineRow, Inputs, read_commit, read_folder
from pyroclast.lab.report.git import Commit
from pyroclast.lab.report.page import page
from pyroclast.lab.report.png import CHARTS, matplotlib, write_pngs
from pyroclast.lab.report.sections import Against
from pyroclast_kernels.whole_file import replacing

PAGE = "index.html"


class ReportError(PyroclastError):
    """The report cannot be written to its folder."""


@dataclass(frozen=True)
class Report:
    """The files that were written, and what they were made from."""

    page: Path
    pngs: tuple[Path, ...]
    inputs: Inputs
    against: Against | None


def write_report(results: Path, out: Path, revision: str | None = None) -> Report:
    """Writes `out`/index.html and PNGs.  results: a folder or a kernels file; revision: a commit to
    compare them with.

    ResultFileError, RevisionError, NoMatplotlibError and ReportError say what is wrong; the old
    report then stays."""
    matplotlib()  # before the reading, which takes longer
    inputs = read_folder(results)
    against = _against(results, inputs, revision) if revision is not None else None
    content = page(inputs, against)
    comparison = against.comparison if against else None
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Not in `out`, where nothing would remove it after a kill.
        with (
            tempfile.TemporaryDirectory(prefix="pyroclast-report-") as folder,
            ExitStack() as stack,
        ):
            pngs = write_pngs(inputs, comparison, Path(folder))
            new = {path.name: path.read_bytes() for path in pngs} | {PAGE: content.encode()}
            for name, data in new.items():  # all are written before the first takes its place
                file = stack.enter_context(replacing(out / name))
                file.write(data)
                file.flush()
        # A chart that only the earlier report had, such as a change, is removed.
        for name in set(CHARTS) - {path.stem for path in pngs}:
            (out / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"{out} cannot be written: {reason_of(error)}") from error
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
