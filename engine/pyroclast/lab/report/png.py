"""The charts of a report as PNG files, for places that cannot open the page.

matplotlib is imported when the first one is drawn.  With its own font, and without dates and
versions in the files, the same results give the same bytes under the same matplotlib.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyroclast.errors import PyroclastError
from pyroclast.lab.report.change import Comparison
from pyroclast.lab.report.charts import View, views_of
from pyroclast.lab.report.data import EngineRow, Inputs
from pyroclast.lab.report.numpy_lanes import median_ratio, medians
from pyroclast.lab.report.roofline import points, roofs
from pyroclast.lab.report.style import (
    LIGHT,
    SHARE_STEPS,
    TECHNOLOGIES,
    ink_on,
    technology_class,
    technology_of,
)
from pyroclast.lab.report.tables import share_step
from pyroclast.lab.speed.rows import MeasuredCeiling

CHARTS = ("roofline", "heat_map", "numpy", "peers", "change")
_DPI = 130
_MARKERS = dict(zip(TECHNOLOGIES, "oX^sdDhpvP", strict=True))
_MOST_BARS = 40
_STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib brings it
    "font.size": 9,
    "figure.facecolor": LIGHT[1],
    "axes.facecolor": LIGHT[1],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e9e2d9",
    "text.parse_math": False,  # a "$" in a name is a dollar
}


class NoMatplotlibError(PyroclastError):
    """matplotlib is not installed; the message says how to install it."""


def matplotlib() -> Any:
    """The module matplotlib, set to draw without a screen."""
    try:
        found = importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise NoMatplotlibError(
            "the report draws with matplotlib, which is not installed: pip install matplotlib"
        ) from error
    found.use("agg")
    return found


def write_pngs(inputs: Inputs, comparison: Comparison | None, folder: Path) -> list[Path]:
    """Writes those of CHARTS that there are data for."""
    mpl = matplotlib()
    view = views_of(inputs.kernels.rows)[0] if inputs.kernels.rows else None
    engines = [row for file in inputs.engines for row in file.rows]
    charts: dict[str, Callable[[Any], object] | None] = {
        "roofline": _bound(_roofline, view, inputs.kernels.ceilings) if view else None,
        "heat_map": _bound(_heat_map, view) if view else None,
        "numpy": _bound(_numpy, view) if view and medians(view.rows) else None,
        "peers": _bound(_peers, engines) if engines else None,
        "change": _bound(_change, comparison) if comparison else None,
    }
    assert tuple(charts) == CHARTS
    written = []
    with mpl.rc_context(_STYLE):
        for name, draw in charts.items():
            if draw is not None:
                written.append(_write(draw, folder / f"{name}.png"))
    return written


def _bound(draw: Callable[..., object], *given: Any) -> Callable[[Any], object]:
    return lambda figure: draw(figure, *given)


def _write(draw: Callable[[Any], object], path: Path) -> Path:
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(9, 5.4), layout="constrained"
    )
    draw(figure)
    # Its own name and version would change the bytes.
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return path


def _logarithmic(axis: Any) -> None:
    """Puts plain numbers at the ticks; matplotlib's own need its math parser, which is off."""
    low, high = axis.get_view_interval()
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}" if high < 8 * low else "")


def _roofline(figure: Any, view: View, ceilings: tuple[MeasuredCeiling, ...]) -> None:
    axes = figure.subplots()
    found = points(view.rows)
    for technology, (colour, _, _) in TECHNOLOGIES.items():
        mine = [(x, y) for x, y, row in found if technology_of(row.variant) == technology]
        if mine:
            marker = _MARKERS[technology]
            axes.scatter(*zip(*mine, strict=True), s=26, c=colour, marker=marker, label=technology)
    reads, arithmetic = roofs(view, ceilings)
    if found:
        axes.set(xscale="log", yscale="log")
        _logarithmic(axes.xaxis)
        _logarithmic(axes.yaxis)
        axes.legend(frameon=False, loc="lower right")
        low, high = min(x for x, _, _ in found) / 2, max(x for x, _, _ in found) * 2
        for read in reads:
            top = min(
                max((c.value for c in arithmetic), default=high * read.value) / read.value, high
            )
            axes.plot([low, top], [low * read.value, top * read.value], color=LIGHT[0], lw=1)
        for each in arithmetic:
            axes.axhline(each.value, color=LIGHT[0], lw=0.8, ls="--")
            axes.text(high, each.value, f"{each.kind} ", ha="right", va="bottom")
        axes.set_ylim(min(y for _, y, _ in found) / 2)
    axes.set(xlabel="operations per byte", ylabel="GFLOP/s", title=f"Roofline, {view.name}")


def _heat_map(figure: Any, view: View) -> None:
    cases = list(dict.fromkeys((row.op, row.format, row.case) for row in view.rows))
    variants = sorted(dict.fromkeys(row.variant for row in view.rows), key=technology_class)
    figure.set_size_inches(max(6, 2.6 + 0.75 * len(variants)), 1.6 + 0.2 * len(cases))
    axes = figure.subplots()
    for row in view.rows:
        if row.roofline_share is None:
            continue
        y, x = cases.index((row.op, row.format, row.case)), variants.index(row.variant)
        colour = SHARE_STEPS[share_step(row.roofline_share)]
        axes.barh(y, 0.96, left=x - 0.48, height=0.92, color=colour)
        words = f"{row.roofline_share:.0%}"
        axes.text(x, y, words, ha="center", va="center", fontsize=7, color=ink_on(colour))
    axes.set_xticks(range(len(variants)), variants, rotation=35, ha="right")
    axes.set_yticks(range(len(cases)), [" ".join(case) for case in cases], fontsize=7)
    axes.set(ylim=(len(cases) - 0.5, -0.5), xlim=(-0.5, len(variants) - 0.5))
    axes.set_title(f"Share of the roofline, {view.name}")
    axes.grid(visible=False)


def _numpy(figure: Any, view: View) -> None:
    groups = medians(view.rows)
    figure.set_size_inches(9, 1.6 + 0.3 * len(groups))
    axes = figure.subplots()
    for technology, (colour, _, _) in TECHNOLOGIES.items():
        mine = [
            (median_ratio(rows), y)
            for y, variants in enumerate(groups.values())
            for variant, rows in variants.items()
            if technology_of(variant) == technology
        ]
        if mine:
            marker = _MARKERS[technology]
            axes.scatter(*zip(*mine, strict=True), s=34, c=colour, marker=marker, label=technology)
    figure.legend(loc="outside right upper", frameon=False)
    axes.set(xscale="log", ylim=(len(groups) - 0.5, -0.5), xlabel="times as fast as NumPy")
    _logarithmic(axes.xaxis)
    axes.set_yticks(range(len(groups)), [" ".join(key) for key in groups])
    axes.axvline(1, color=LIGHT[0], lw=1)
    axes.set_title(f"Speed against NumPy, median over all cases, {view.name}")


def _peers(figure: Any, rows: list[EngineRow]) -> None:
    bars = [(row, speed) for row in rows for speed in row.speeds][:_MOST_BARS]
    figure.set_size_inches(9, 1.2 + 0.3 * len(bars))
    axes = figure.subplots()
    for y, (_, speed) in enumerate(bars):
        colour = "#b8330a" if speed.engine == "Pyroclast" else "#8d857c"
        axes.barh(y, speed.tokens_s, color=colour)
        axes.text(speed.tokens_s, y, f" {speed.tokens_s:,.1f}", va="center", fontsize=8)
    names = [f"{row.label} {row.test}, {speed.engine}" for row, speed in bars]
    axes.set_yticks(range(len(bars)), names)
    axes.set(ylim=(len(bars) - 0.5, -0.5), xlabel="tokens per second", title="Tokens per second")


def _change(figure: Any, comparison: Comparison) -> None:
    """The ratio of every row that both results have, with its noise bound."""
    found = sorted((c for c in comparison.changes if c.ratio), key=lambda change: change.ratio or 1)
    colours = {"faster": "#12693a", "slower": "#b3161f"}
    axes = figure.subplots()
    ratios = [change.ratio or 1 for change in found]
    bounds = [1 + (change.bound or 0) for change in found]
    marks = [colours.get(change.speed, "#8d857c") for change in found]
    axes.vlines(range(len(found)), [1 / b for b in bounds], bounds, color="#ded7ce", lw=1)
    axes.scatter(range(len(found)), ratios, s=12, c=marks, zorder=3)
    axes.set(yscale="log", ylabel="times as fast as before", xlabel="rows, slowest change first")
    # The ratios decide the range, for a noise bound may be far larger.
    axes.set_ylim(min([*ratios, 0.9]) / 1.3, max([*ratios, 1.1]) * 1.3)
    _logarithmic(axes.yaxis)
    axes.set_title("Change of speed; bars are the noise bound")
    axes.axhline(1, color=LIGHT[0], lw=0.8)
