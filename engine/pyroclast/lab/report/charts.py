"""The charts of a report as inline SVG: the roofline, and speeds against NumPy.

Positions are percentages of the plot and sizes are pixels, so one drawing serves a phone and a wide
screen and its text stays as large as it is.  Every mark has a <title>, which browsers show and
screen readers read.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyroclast.lab.report.html import TIMES, Markup, number, percent, tag, time, times
from pyroclast.lab.report.style import TECHNOLOGIES, technology_class, technology_of
from pyroclast.lab.speed.rows import BLAS, MeasuredCeiling, Row

_NUMPY = ("numpy", BLAS)


@dataclass(frozen=True)
class View:
    """The rows of one number of threads and one state of the caches; css is its class."""

    n_threads: int
    cache: str
    rows: tuple[Row, ...]
    css: str

    @property
    def name(self) -> str:
        return f"{self.n_threads} thread{'' if self.n_threads == 1 else 's'}, {self.cache}"


def views_of(rows: Sequence[Row]) -> list[View]:
    """Fewest threads first, and cold before warm: cold is what a large model meets."""
    keys = sorted({(row.n_threads, row.cache) for row in rows})
    return [
        View(n, cache, tuple(r for r in rows if (r.n_threads, r.cache) == (n, cache)), f"v{i}")
        for i, (n, cache) in enumerate(keys)
    ]


class Axis:
    """A logarithmic axis over some numbers above 0, as percentages of its length."""

    def __init__(self, values: Iterable[float], pad: float = 0.06) -> None:
        logs = [math.log10(value) for value in values] or [0.0]
        low, high = min(logs), max(logs)
        room = max((high - low) * pad, 0.08)
        self.low, self.high = low - room, high + room

    def __call__(self, value: float) -> float:
        return 100 * (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Powers of ten, of which ten at most, with 2 and 5 between where there is room."""
        n_decades = self.high - self.low
        step = max(1, math.ceil(n_decades / 8))
        between = (1, 2, 5) if n_decades < 2 else (1, 3) if n_decades < 3 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        ticks = [m * 10.0**p for p in powers if p % step == 0 for m in between]
        return [tick for tick in ticks if 0 <= self(tick) <= 100]


def _at(value: float) -> str:
    return f"{value:.2f}%"


def mark(variant: str, x: float, y: float, tip: str, css: str = "") -> Markup:
    """A variant's mark at a place in percent of the drawing, with a tooltip."""
    kind = technology_class(variant)
    classes = f"pt {kind} {css}".strip()
    return tag("use", tag("title", tip), href=f"#m-{kind}", x=_at(x), y=_at(y), class_=classes)


def symbols() -> Markup:
    """The shapes of the technologies, once a page."""
    shapes = [
        tag("path", id=f"m-t{i}", d=shape) for i, (_, _, shape) in enumerate(TECHNOLOGIES.values())
    ]
    return tag("svg", tag("defs", shapes), width=0, height=0, aria_hidden="true", class_="defs")


def legend(rows: Sequence[Row]) -> Markup:
    """The technologies that were timed, with their marks."""
    present = {technology_of(row.variant) for row in rows if row.median_us is not None}
    items = []
    for i, name in enumerate(TECHNOLOGIES):
        if name in present:
            use = tag("use", href=f"#m-t{i}", class_=f"t{i}")
            drawn = tag("svg", use, viewBox="-6 -6 12 12", aria_hidden="true")
            items.append(tag("li", drawn, name))
    return tag("ul", items, class_="legend")


def describe(row: Row) -> str:
    """A row as a tooltip."""
    limit = f" of the {row.roofline_limit} limit" if row.roofline_limit else ""
    speed = f"{number(row.gb_s)} GB/s, {number(row.gflop_s)} GFLOP/s"
    return (
        f"{row.op}.{row.format} {row.case}\n{row.variant}: {time(row.median_us)} "
        f"± {time(row.iqr_us)}\n{speed}\n{percent(row.roofline_share)}{limit}, "
        f"{times(row.ratio_to_numpy)} NumPy" + ("\nthe machine drifted" * (row.status == "drifted"))
    )


# ---- roofline ----------------------------------------------------------------------------------


def points(rows: Sequence[Row]) -> list[tuple[float, float, Row]]:
    """(operations per byte, GFLOP/s, row) of those that compute something."""
    return [
        (row.n_flops / row.n_bytes, row.gflop_s, row)
        for row in rows
        if row.gflop_s is not None and row.n_flops and row.n_bytes
    ]


def roofs(
    view: View, ceilings: Sequence[MeasuredCeiling]
) -> tuple[list[MeasuredCeiling], list[MeasuredCeiling]]:
    """(reads, arithmetic) that limit the view: reads from memory, and for warm rows from the
    fastest cache, too; the slowest first."""
    mine = [each for each in ceilings if each.n_threads == view.n_threads]
    reads = sorted((c for c in mine if c.kind == "read"), key=lambda c: c.n_bytes)
    kept = reads[-1:]
    if view.cache == "warm" and len(reads) > 1:
        kept.append(max(reads, key=lambda c: c.value))
    arithmetic = sorted((c for c in mine if c.kind != "read"), key=lambda c: c.value)
    return kept, arithmetic


def roofline(view: View, ceilings: Sequence[MeasuredCeiling], op_css: dict[str, str]) -> Markup:
    """Operations per second over operations per byte; op_css: the class of an op's points."""
    found = points(view.rows)
    if not found:
        return tag("p", "Nothing here computes: there is no point to draw.", class_="soft")
    reads, arithmetic = roofs(view, ceilings)
    x_axis = Axis(x for x, _, _ in found)
    y_axis = Axis([y for _, y, _ in found] + [c.value for c in arithmetic])
    marks = [
        mark(row.variant, x_axis(x), 100 - y_axis(y), describe(row), f"by-op {op_css[row.op]}")
        for x, y, row in found
    ]
    roofs_drawn = _flat_roofs(reads, arithmetic, x_axis, y_axis)
    for i, each in enumerate(reads):
        roofs_drawn += _slope(each, arithmetic, x_axis, y_axis, dashed=i > 0)
    lines = [*_grid(x_axis, y_axis), *(line for line, _ in roofs_drawn)]
    names = [name for _, name in roofs_drawn]  # over the marks
    what = f"Roofline of {view.name}: {len(found)} points; the tables below hold the same figures"
    drawing = tag("svg", lines, marks, names, role="img", aria_label=what)
    return tag("div", drawing, class_="plot")


def _grid(x_axis: Axis, y_axis: Axis) -> list[Markup]:
    found = []
    for tick in x_axis.ticks():
        x = _at(x_axis(tick))
        found.append(tag("line", x1=x, x2=x, y1="0%", y2="100%", class_="grid"))
        found.append(tag("text", f"{tick:g}", x=x, y="100%", dy=18, text_anchor="middle"))
    for tick in y_axis.ticks():
        y = _at(100 - y_axis(tick))
        found.append(tag("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid"))
        found.append(tag("text", f"{tick:g}", x="0%", dx=-8, y=y, dy=4, text_anchor="end"))
    name = "operations per byte moved"
    found.append(tag("text", name, x="50%", y="100%", dy=38, text_anchor="middle"))
    return [*found, tag("text", "GFLOP/s", x="0%", y="0%", dx=-38, dy=-9)]


def _flat_roofs(
    reads: Sequence[MeasuredCeiling],
    arithmetic: Sequence[MeasuredCeiling],
    x_axis: Axis,
    y_axis: Axis,
) -> list[tuple[Markup, Markup]]:
    """(line, name) of each kind of arithmetic."""
    found = []
    fastest = max((read.value for read in reads), default=0.0)
    for each in arithmetic:
        start = 10**x_axis.low if not fastest else max(each.value / fastest, 10**x_axis.low)
        x, y = min(x_axis(start), 94.0), _at(100 - y_axis(each.value))
        line = tag("line", x1=_at(x), x2="100%", y1=y, y2=y, class_="roof")
        name = f"{each.kind} {number(each.value)}"
        text = tag("text", name, x="100%", y=y, dy=-6, dx=-4, text_anchor="end", class_="name")
        found.append((line, text))
    return found


def _slope(
    read: MeasuredCeiling,
    arithmetic: Sequence[MeasuredCeiling],
    x_axis: Axis,
    y_axis: Axis,
    dashed: bool,
) -> list[tuple[Markup, Markup]]:
    """(line, name) of what reading allows, up to the highest of the flat roofs; or nothing."""
    top = max((each.value for each in arithmetic), default=10**y_axis.high)
    low = max(10**y_axis.low / read.value, 10**x_axis.low)
    high = min(top / read.value, 10**x_axis.high)
    if low >= high:
        return []
    ends = [(_at(x_axis(x)), _at(100 - y_axis(x * read.value))) for x in (low, high)]
    (x1, y1), (x2, y2) = ends
    line = tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="roof dash" if dashed else "roof")
    # Near the ridge: on a phone the name would hang out to the left elsewhere.
    middle = 10 ** (0.06 * math.log10(low) + 0.94 * math.log10(high))
    x, y = _at(x_axis(middle)), _at(100 - y_axis(middle * read.value))
    name = f"{'cache' if dashed else 'memory'} {number(read.value)} GB/s"
    text = tag("text", name, x=x, y=y, dx=-8, dy=-4, text_anchor="end", class_="name")
    return [(line, text)]


# ---- against NumPy -----------------------------------------------------------------------------


def medians(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """(op, format) -> variant -> its rows that have a ratio to NumPy."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.ratio_to_numpy is not None:
            variants = found.setdefault((row.op, row.format), {})
            variants.setdefault(row.variant, []).append(row)
    return found


def median_ratio(rows: Sequence[Row]) -> float:
    """Of the cases of one variant, the ratio to NumPy in the middle."""
    return statistics.median(row.ratio_to_numpy for row in rows if row.ratio_to_numpy is not None)


def lanes(view: View, op_css: dict[str, str]) -> Markup:
    """A line for each op and format: small marks are cases, large ones a variant's median."""
    groups = {
        key: {name: rows for name, rows in variants.items() if name != "numpy"}
        for key, variants in medians(view.rows).items()
    }
    groups = {key: variants for key, variants in groups.items() if variants}
    if not groups:
        return tag("p", "NumPy was not timed here: there is nothing to compare.", class_="soft")
    ratios = [r.ratio_to_numpy or 1 for v in groups.values() for rows in v.values() for r in rows]
    axis = Axis([*ratios, 1.0])
    cells: list[Markup] = []
    for (op, format), variants in groups.items():
        cells.append(_lane(f"{op} {format}", variants, axis, f"by-op {op_css[op]}"))
    labels = [
        tag("text", f"{tick:g}{TIMES}", x=_at(axis(tick)), y=16, text_anchor="middle")
        for tick in axis.ticks()
    ]
    scale = tag("svg", labels, aria_hidden="true")
    cells.append(tag("div", tag("div", scale, class_="drawn"), class_="lane axis"))
    return tag("div", cells, class_="lanes")


def _lane(name: str, variants: dict[str, list[Row]], axis: Axis, css: str) -> Markup:
    lines = [tag("line", x1="0%", x2="100%", y1="50%", y2="50%", class_="grid")]
    lines += [
        tag("line", x1=_at(axis(t)), x2=_at(axis(t)), y1=0, y2="100%", class_="grid")
        for t in axis.ticks()
    ]
    one = _at(axis(1.0))
    lines.append(tag("line", x1=one, x2=one, y1=0, y2="100%", class_="roof"))
    for variant, rows in variants.items():
        lines += [
            mark(variant, axis(row.ratio_to_numpy or 1), 50, describe(row), "dim") for row in rows
        ]
    middle = {variant: median_ratio(rows) for variant, rows in variants.items()}
    for variant, ratio in middle.items():
        tip = f"{name}\n{variant}: {times(ratio)} NumPy, median of {len(variants[variant])} cases"
        lines.append(mark(variant, axis(ratio), 50, tip))
    own = {variant: ratio for variant, ratio in middle.items() if variant not in _NUMPY} or middle
    best = max(own, key=lambda variant: own[variant])
    label = f"{name} against NumPy: {', '.join(f'{v} {times(r)}' for v, r in middle.items())}"
    drawing = tag("svg", lines, role="img", aria_label=label)
    return tag(
        "div",
        tag("div", name, class_="label"),
        tag("div", drawing, class_="drawn"),
        tag("div", tag("b", times(own[best])), f" {best}", class_="best"),
        class_=f"lane {css}",
    )
