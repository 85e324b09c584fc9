"""The sections of a report's page: a heading, an explanation, and a chart or a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyroclast.lab.report.change import Comparison
from pyroclast.lab.report.change_tables import change_tiles, changes
from pyroclast.lab.report.charts import View, legend
from pyroclast.lab.report.data import Inputs
from pyroclast.lab.report.html import TIMES, Child, Markup, number, tag, text_of, times
from pyroclast.lab.report.numpy_lanes import lanes
from pyroclast.lab.report.peer_bars import peers
from pyroclast.lab.report.roofline import roofline
from pyroclast.lab.report.style import RATIO_LIMITS, RATIO_STEPS, SHARE_STEPS, ink_on
from pyroclast.lab.report.tables import errors, heat_maps
from pyroclast.lab.speed.rows import Row, threads

_ABOVE = 1.1  # times a ceiling: more than noise explains
_CACHES = (
    "cold: copies of the arguments in random order, three times the last cache in all",
    "warm: the same arguments every time",
    "cold on a GPU: one launch, after the L2 was flushed",
    "warm on a GPU: one CUDA graph of many launches",
)


@dataclass(frozen=True)
class Against:
    """The results that these are compared with.  revision: as asked for; commit: its full name."""

    revision: str
    commit: str
    comparison: Comparison


def _above(rows: Sequence[Row]) -> Child:
    """A warning if timings exceed their ceilings by more than noise."""
    n_above = sum((row.roofline_share or 0) > _ABOVE for row in rows)
    if not n_above:
        return []
    words = (
        f"{n_above} of {len(rows)} timings exceed their ceiling by more than 10%: the machine was "
        "busy while its ceilings were measured, or the data stayed in a cache. The shares of this "
        "run are too high; measure again on a quiet machine."
    )
    return tag("p", words, class_="note", role="note")


def heading(title: str) -> Markup:
    """The heading of a section, to which the contents lead."""
    return tag("h2", title, id=re.sub(r"[^a-z0-9]+", "-", title.lower()))


def contents(sections: Sequence[Child]) -> Markup:
    """Links to the headings of sections; those that are empty have none."""
    headings = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', text_of(sections))
    links = [tag("a", Markup(title), href=f"#{Markup(key)}") for key, title in headings]
    return tag("nav", links, class_="contents", aria_label="Contents")


def choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> Markup:
    """Radio buttons as chips; the first is chosen."""
    chips = [
        tag(
            "label",
            tag("input", type="radio", name=name, id=key, checked=i == 0),
            tag("span", shown),
            class_="chip",
        )
        for i, (key, shown) in enumerate(options)
    ]
    return tag("fieldset", tag("legend", label), chips)


def _by_view(views: Sequence[View], draw: Callable[[View], Child]) -> list[Markup]:
    return [tag("div", draw(view), class_=f"view {view.css}") for view in views]


def section_roofline(inputs: Inputs, views: Sequence[View], op_css: dict[str, str]) -> Child:
    words = (
        "Each mark is one kernel on one case. The lines are ceilings, measured on this machine in "
        "the same run: the slope is reading from memory, the flat lines are arithmetic. No mark "
        "should be above them, and a kernel on a line cannot be made faster."
    )
    ceilings = inputs.kernels.ceilings
    return [
        heading("Roofline"),
        tag("p", words),
        _above(inputs.kernels.rows),
        legend(inputs.kernels.rows),
        tag("figure", _by_view(views, lambda view: roofline(view, ceilings, op_css))),
    ]


def _scale(css_class: str, steps: Sequence[str], names: Sequence[str]) -> Markup:
    """The key of a heat map's colours."""
    cells = [
        tag("li", name, style=f"background:{colour};color:{ink_on(colour)};padding:.1rem .5rem")
        for colour, name in zip(steps, names, strict=True)
    ]
    return tag("ul", cells, class_=f"legend scale {css_class}", aria_label="Colours")


def section_heat(views: Sequence[View], op_css: dict[str, str]) -> Child:
    metrics = [("metric-share", "share of the roofline"), ("metric-ratio", "ratio to NumPy")]
    metrics.append(("metric-time", "time"))
    shares = ["from 0%", *(f"{10 * i}%" for i in range(1, len(SHARE_STEPS)))]
    limits = [f"from 0{TIMES}", *map(times, RATIO_LIMITS)]
    return [
        heading("Heat map"),
        tag("p", "A row for each case, a column for each kernel. A dash means that it cannot run."),
        choice("metric", "Show", metrics),
        _scale("ms", SHARE_STEPS, shares),
        _scale("mr", RATIO_STEPS, limits),
        _by_view(views, lambda view: heat_maps(view, op_css)),
    ]  # fmt: skip


def section_numpy(views: Sequence[View], op_css: dict[str, str]) -> Child:
    words = (
        "A small mark is one case, a large one the median of a kernel's cases; the thick line is "
        "NumPy. The right column names the best kernel that the engine may choose. NumPy + BLAS "
        "gets its weights as float32 beforehand and is shown for comparison only."
    )
    draw = [heading("Speed against NumPy"), tag("p", words)]
    return [*draw, tag("figure", _by_view(views, lambda view: lanes(view, op_css)))]


def section_errors(rows: Sequence[Row], op_css: dict[str, str]) -> Child:
    words = (
        "Each output is compared with the NumPy reference. The allowed error is derived for each "
        "case; the share is the largest error over the allowed one. Above 100% a kernel is wrong."
    )
    return [heading("Errors"), tag("p", words), errors(rows, op_css)]


def section_peers(inputs: Inputs) -> Child:
    if not inputs.engines:
        return []
    words = (
        "Whole generations; the engines run in turn on the same weights. A ratio above 1 means "
        "that Pyroclast is faster; quartiles over the repetitions are in brackets."
    )
    cpu = inputs.kernels.environment.get("cpu")
    engines = sorted(inputs.engines, key=lambda file: file.made_with.get("cpu") != cpu)
    return [heading("Tokens per second"), tag("p", words), peers(engines)]


def section_change(against: Against) -> Child:
    comparison = against.comparison
    noise = (
        "A speed is marked only if it changed beyond its noise bound: 5%, or the sum of both "
        "spreads, both drifts and the difference of the anchor, whichever is larger."
    )
    lost = f"New rows: {comparison.n_new}; rows that are gone: {comparison.n_gone}."
    return [
        heading(f"Change since {against.revision}"),
        tag("p", f"commit {against.commit}", class_="meta"),
        change_tiles(comparison),
        tag("p", f"{noise} {lost}", class_="meta"),
        changes(comparison),
    ]


def _runner(n_threads: int) -> str:
    """What ran at a ceiling: threads of the CPU, or the GPU."""
    return threads(n_threads) if n_threads else "GPU"


def section_notes(inputs: Inputs) -> Child:
    ceilings = [
        f"{c.kind}{f' of {c.n_bytes >> 20} MiB' if c.n_bytes else ''}, {_runner(c.n_threads)}: "
        f"{number(c.value)} {c.unit} ({c.how})"
        for c in inputs.kernels.ceilings
    ]
    settings: dict[str, Any] = dict(inputs.kernels.settings)
    asked = [f"{key}: {value}" for key, value in settings.items() if value not in (None, False)]
    lists = (("Ceilings", ceilings), ("Caches", _CACHES), ("Settings", asked))
    return [
        heading("How it was measured"),
        tag("p", f"{inputs.kernels_file}, {len(inputs.kernels.rows):,} rows", class_="meta"),
        [
            tag("details", tag("summary", title), tag("ul", [tag("li", x) for x in items]))
            for title, items in lists
            if items
        ],
    ]
