"""The command `pyroclast bench report`: draws result files as a page and PNGs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pyroclast.cli.terminal import colour, write

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from pyroclast.lab.report.report import Report

_RESULTS = "bench/results"


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The arguments of `bench report`."""
    assert name == "bench report"
    command.add_argument(
        "--results",
        default=_RESULTS,
        metavar="DIR",
        help=f"a folder with kernels.json and engine_*.json, or one kernels file "
        f"(default: {_RESULTS})",
    )
    command.add_argument(
        "--out", metavar="DIR", help="folder for index.html (default: report/ in DIR)"
    )
    command.add_argument("--against", metavar="REV", help="compare with the results at this commit")


def bench_report(args: Namespace) -> None:
    """Writes the report, and prints where it is and what changed."""
    from pyroclast.lab.report.report import write_report

    results = Path(args.results)
    folder = results.parent if results.is_file() else results
    report = write_report(results, Path(args.out) if args.out else folder / "report", args.against)
    if args.json:
        write(json.dumps(as_dict(report)))
        return
    write(f"wrote {report.page} and {', '.join(path.name for path in report.pngs)}")
    if report.against is not None:
        counts = report.against.comparison.counts
        for what, n in sorted(counts.items()):
            bad = what in ("slower", "no longer timed", "numerics worse", "numerics broken")
            write(colour(f"  {n:6} {what}", "31") if bad else f"  {n:6} {what}")


def as_dict(report: Report) -> dict[str, object]:
    """The files written and the changes found, fit for JSON."""
    found: dict[str, object] = {
        "page": str(report.page),
        "pngs": [str(path) for path in report.pngs],
        "kernels_file": report.inputs.kernels_file,
        "n_rows": len(report.inputs.kernels.rows),
        "against": None,
    }
    if report.against is not None:
        comparison = report.against.comparison
        found["against"] = {
            "revision": report.against.revision,
            "commit": report.against.commit,
            "counts": dict(comparison.counts),
            "n_new": comparison.n_new,
            "n_gone": comparison.n_gone,
            "changes": [
                {
                    "key": list(change.new.key),
                    "ratio": change.ratio,
                    "bound": change.bound,
                    "speed": change.speed,
                    "numerics": change.numerics,
                }
                for change in comparison.changes
                if change.is_real
            ],
        }
    return found
