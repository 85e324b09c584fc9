"""The roofline of a report: every kernel's speed under the measured ceilings, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyroclast.lab.report.charts import Axis, View, at, describe, mark
from pyroclast.lab.report.html import Markup, number, tag
from pyroclast.lab.speed.rows import MeasuredCeiling, Row


def points(rows: Sequence[Row]) -> list[tuple[float, float, Row]]:
    """(operations per byte, GFLOP/s, row) for each row that computes something."""
    return [
        (row.n_flops / row.n_bytes, row.gflop_s, row)
        for row in rows
        if row.gflop_s is not None and row.n_flops and row.n_bytes
    ]


def roofs(
    view: View, ceilings: Sequence[MeasuredCeiling]
) -> tuple[list[MeasuredCeiling], list[MeasuredCeiling]]:
    """(reads, arithmetic): the ceilings of the view, slowest first.  Reads are from memory; warm
    rows also get those from the fastest cache."""
    mine = [each for each in ceilings if each.n_threads == view.n_threads]
    reads = sorted((c for c in mine if c.kind == "read"), key=lambda c: c.n_bytes)
    kept = reads[-1:]
    if view.cache == "warm" and len(reads) > 1:
        kept.append(max(reads, key=lambda c: c.value))
    arithmetic = sorted((c for c in mine if c.kind != "read"), key=lambda c: c.value)
    return kept, arithmetic


def roofline(view: View, ceilings: Sequence[MeasuredCeiling], op_css: dict[str, str]) -> Markup:
    """The chart of operations per second over operations per byte.  op_css: op -> CSS class."""
    found = points(view.rows)
    if not found:
        return tag(
            "p", "No kernel here does arithmetic, so there is nothing to draw.", class_="soft"
        )
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
        x = at(x_axis(tick))
        found.append(tag("line", x1=x, x2=x, y1="0%", y2="100%", class_="grid"))
        found.append(tag("text", f"{tick:g}", x=x, y="100%", dy=18, text_anchor="middle"))
    for tick in y_axis.ticks():
        y = at(100 - y_axis(tick))
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
    """(line, name) for each kind of arithmetic."""
    found = []
    fastest = max((read.value for read in reads), default=0.0)
    for each in arithmetic:
        start = 10**x_axis.low if not fastest else max(each.value / fastest, 10**x_axis.low)
        x, y = min(x_axis(start), 94.0), at(100 - y_axis(each.value))
        line = tag("line", x1=at(x), x2="100%", y1=y, y2=y, class_="roof")
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
    """(line, name) of the limit by reading, up to the highest flat roof; [] if out of view."""
    top = max((each.value for each in arithmetic), default=10**y_axis.high)
    low = max(10**y_axis.low / read.value, 10**x_axis.low)
    high = min(top / read.value, 10**x_axis.high)
    if low >= high:
        return []
    ends = [(at(x_axis(x)), at(100 - y_axis(x * read.value))) for x in (low, high)]
    (x1, y1), (x2, y2) = ends
    line = tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="roof dash" if dashed else "roof")
    # Near the ridge; elsewhere the name would stick out to the left on a phone.
    middle = 10 ** (0.06 * math.log10(low) + 0.94 * math.log10(high))
    x, y = at(x_axis(middle)), at(100 - y_axis(middle * read.value))
    name = f"{'cache' if dashed else 'memory'} {number(read.value)} GB/s"
    text = tag("text", name, x=x, y=y, dx=-8, dy=-4, text_anchor="end", class_="name")
    return [(line, text)]
