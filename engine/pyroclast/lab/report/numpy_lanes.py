"""Speeds against NumPy in a report: a lane for each op and format, as inline SVG."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pyroclast.lab.report.charts import Axis, View, at, describe, mark
from pyroclast.lab.report.html import TIMES, Markup, tag, times
from pyroclast.lab.speed.rows import BLAS, Row

_NUMPY = ("numpy", BLAS)


def medians(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """(op, format) -> variant -> its rows with a ratio to NumPy."""
    found: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.ratio_to_numpy is not None:
            variants = found.setdefault((row.op, row.format), {})
            variants.setdefault(row.variant, []).append(row)
    return found


def median_ratio(rows: Sequence[Row]) -> float:
    """The median ratio to NumPy over the cases of one variant."""
    return statistics.median(row.ratio_to_numpy for row in rows if row.ratio_to_numpy is not None)


def lanes(view: View, op_css: dict[str, str]) -> Markup:
    """A lane for each op and format: small marks are cases, large marks a variant's median."""
    groups = {
        key: {name: rows for name, rows in variants.items() if name != "numpy"}
        for key, variants in medians(view.rows).items()
    }
    groups = {key: variants for key, variants in groups.items() if variants}
    if not groups:
        return tag("p", "NumPy was not timed here, so there is nothing to compare.", class_="soft")
    ratios = [r.ratio_to_numpy or 1 for v in groups.values() for rows in v.values() for r in rows]
    axis = Axis([*ratios, 1.0])
    cells: list[Markup] = []
    for (op, format), variants in groups.items():
        cells.append(_lane(f"{op} {format}", variants, axis, f"by-op {op_css[op]}"))
    labels = [
        tag("text", f"{tick:g}{TIMES}", x=at(axis(tick)), y=16, text_anchor="middle")
        for tick in axis.ticks()
    ]
    scale = tag("svg", labels, aria_hidden="true")
    cells.append(tag("div", tag("div", scale, class_="drawn"), class_="lane axis"))
    return tag("div", cells, class_="lanes")


def _lane(name: str, variants: dict[str, list[Row]], axis: Axis, css: str) -> Markup:
    lines = [tag("line", x1="0%", x2="100%", y1="50%", y2="50%", class_="grid")]
    lines += [
        tag("line", x1=at(axis(t)), x2=at(axis(t)), y1=0, y2="100%", class_="grid")
        for t in axis.ticks()
    ]
    one = at(axis(1.0))
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
