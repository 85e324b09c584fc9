"""The tables of a report: heat map, failures, errors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from pyroclast.lab.report.case_names import CASE_NAMES
from pyroclast.lab.report.charts import View
from pyroclast.lab.report.html import (
    NOTHING,
    Child,
    Markup,
    number,
    percent,
    tag,
    time,
    times,
)
from pyroclast.lab.report.style import RATIO_LIMITS, SHARE_STEPS, technology_class
from pyroclast.lab.speed.rows import BROKEN, Row, threads


def scrolling(label: str, table: Markup) -> Markup:
    """A table in a box that scrolls sideways, by keyboard too."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def head(*names: str, n_words: int = 1) -> Markup:
    """The head of a table.  Columns after the first n_words hold numbers."""
    cells = [
        tag("th", name, scope="col", class_=None if i < n_words else "n")
        for i, name in enumerate(names)
    ]
    return tag("thead", tag("tr", cells))


def share_step(share: float) -> int:
    """The colour of a share of the roofline, one for each tenth."""
    return min(int(share * len(SHARE_STEPS)), len(SHARE_STEPS) - 1)


def ratio_step(ratio: float) -> int:
    """The colour of a ratio to NumPy."""
    return bisect_right(RATIO_LIMITS, ratio)


# ---- heat map ----------------------------------------------------------------------------------


def heat_maps(view: View, op_css: dict[str, str]) -> list[Markup]:
    """A table for each op, with a row for each case and a column for each variant."""
    ops = dict.fromkeys(row.op for row in view.rows)
    return [tag("div", _heat_map(op, view), class_=f"by-op {op_css[op]}") for op in ops]


def _heat_map(op: str, view: View) -> list[Markup]:
    rows = [row for row in view.rows if row.op == op]
    variants = [
        name
        for name in sorted(dict.fromkeys(row.variant for row in rows), key=technology_class)
        if any(row.status != "unsupported" for row in rows if row.variant == name)
    ]
    if not variants:
        return [tag("p", f"{op}: no variant can run here.", class_="soft")]
    found = {(row.format, row.case, row.variant): row for row in rows}
    lines = []
    for format, case in dict.fromkeys((row.format, row.case) for row in rows):
        cells = [_heat_cell(found.get((format, case, variant))) for variant in variants]
        lines.append(tag("tr", tag("th", f"{format} {case}", scope="row"), cells))
    words = f". A case: {CASE_NAMES[op]}" if op in CASE_NAMES else ""
    caption = tag("caption", tag("b", op), f", {view.name}{words}")
    names = head("format, case", *variants)
    table = tag("table", caption, names, tag("tbody", lines), class_="heat")
    return [scrolling(f"Heat map of {op}, {view.name}", table)]


def _heat_cell(row: Row | None) -> Markup:
    if row is None or row.status == "unsupported":
        return tag("td", NOTHING, class_="no", title=row.error_message if row else None)
    if not row.is_timed:
        kind = "no" if row.status == "checked" else "bad"
        return tag("td", row.status, class_=kind, title=row.error_message)
    share, ratio = row.roofline_share, row.ratio_to_numpy
    classes = [] if share is None else [f"s{share_step(share)}"]
    classes += [] if ratio is None else [f"r{ratio_step(ratio)}"]
    figures = {"ms": percent(share), "mr": times(ratio), "mt": time(row.median_us)}
    shown = [tag("span", figure, class_=css) for css, figure in figures.items()]
    tip = f"{time(row.median_us)} ± {time(row.iqr_us)}"
    return tag("td", shown, class_=" ".join(classes) or "no", title=tip)


# ---- errors ------------------------------------------------------------------------------------


def failures(rows: Sequence[Row]) -> Child:
    """Every kernel that was wrong, crashed or hung, with the message."""
    # A cold and a warm row describe the same failure.
    bad = {row.key[:-1]: row for row in rows if row.status in BROKEN}
    if not bad:
        return []
    lines = [
        tag(
            "tr",
            named(f"{row.op}.{row.format}={row.variant}", f"{row.case}, {threads(row.n_threads)}"),
            tag("td", row.status, class_="bad"),
            tag("td", row.error_message, class_="w"),
        )
        for row in bad.values()
    ]
    caption = tag("caption", "Kernels that failed")
    names = head("kernel, case", "failure", "message", n_words=3)
    return scrolling("Failures", tag("table", caption, names, tag("tbody", lines)))


def named(name: str, below: str) -> Markup:
    """The first cell of a line: a name with a description below it."""
    return tag("th", name, tag("span", below, class_="sub"), scope="row")


def errors(rows: Sequence[Row], op_css: dict[str, str]) -> list[Markup]:
    """A table for each op: for each format and variant, the case with the largest error share."""
    checked = [row for row in rows if row.error_share is not None]
    parts: list[Markup] = []
    for op in dict.fromkeys(row.op for row in checked):
        mine = [row for row in checked if row.op == op]
        groups = [
            _error_group(format, [row for row in mine if row.format == format])
            for format in dict.fromkeys(row.format for row in mine)
        ]
        worst = max(row.error_share or 0 for row in mine)
        title = f": the largest error is {percent(worst)} of the allowed error"
        caption = tag("caption", f"Errors of {op} against the NumPy reference")
        names = (
            "variant",
            "max abs error",
            "NMSE",
            "tolerance",
            "share of allowed",
            "worst case",
        )
        table = tag("table", caption, head(*names), groups)
        boxed = scrolling(f"Errors of {op}", table)
        summary = tag("summary", tag("b", op), title)
        parts.append(tag("details", summary, boxed, class_=f"by-op {op_css[op]}", open=not parts))
    return parts


def _error_group(format: str, rows: Sequence[Row]) -> list[Markup]:
    reasons = "; ".join(dict.fromkeys(row.reason for row in rows))
    title = tag("th", tag("b", format), f": {reasons}", colspan=6, scope="rowgroup")
    lines = []
    for variant in dict.fromkeys(row.variant for row in rows):
        mine = [row for row in rows if row.variant == variant]
        worst = max(mine, key=lambda row: row.error_share or 0)
        share = worst.error_share or 0
        meter = tag("i", style=f"width:{min(share, 1):.0%}")
        cells = (
            number(worst.max_abs_error),
            number(worst.nmse),
            number(worst.tolerance),
            (percent(share), tag("span", meter, class_="meter", aria_hidden="true")),
            f"{worst.case} (of {len({row.case for row in mine})})",
        )
        css = "bad" if share > 1 else None
        shown = [tag("td", cell, class_=css) for cell in cells]
        lines.append(tag("tr", tag("th", variant, scope="row"), shown))
    return [tag("tbody", tag("tr", title), class_="group"), tag("tbody", lines)]
