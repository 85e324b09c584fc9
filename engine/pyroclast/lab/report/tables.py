"""The tables of a report: heat map, errors, failures, peers, changes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from pyroclast.lab.report.change import Change, Comparison
from pyroclast.lab.report.charts import View
from pyroclast.lab.report.data import EngineFile, EngineRow
from pyroclast.lab.report.html import NOTHING, Child, Markup, number, percent, tag, time, times
from pyroclast.lab.report.style import RATIO_LIMITS, SHARE_STEPS, technology_class
from pyroclast.lab.speed.rows import BROKEN, Row

_MOST_CHANGES = 200


def scrolling(label: str, table: Markup) -> Markup:
    """A table in a box of its own that scrolls sideways, by keyboard, too."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def head(*names: str, n_words: int = 1) -> Markup:
    """The head of a table; names after the first n_words stand over numbers."""
    cells = [
        tag("th", name, scope="col", class_=None if i < n_words else "n")
        for i, name in enumerate(names)
    ]
    return tag("thead", tag("tr", cells))


def share_step(share: float) -> int:
    """The colour of a share: tenths."""
    return min(int(share * len(SHARE_STEPS)), len(SHARE_STEPS) - 1)


def ratio_step(ratio: float) -> int:
    """The colour of a ratio to NumPy."""
    return bisect_right(RATIO_LIMITS, ratio)


# ---- heat map ----------------------------------------------------------------------------------


def heat_maps(view: View, op_css: dict[str, str]) -> list[Markup]:
    """For each op: cases down, variants across."""
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
        return [tag("p", f"{op}: nothing that can run here.", class_="soft")]
    found = {(row.format, row.case, row.variant): row for row in rows}
    lines = []
    for format, case in dict.fromkeys((row.format, row.case) for row in rows):
        cells = [_heat_cell(found.get((format, case, variant))) for variant in variants]
        lines.append(tag("tr", tag("th", f"{format} {case}", scope="row"), cells))
    caption = tag("caption", tag("b", op), f", {view.name}")
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
    shown = tag("span", percent(share), class_="ms"), tag("span", times(ratio), class_="mr")
    tip = f"{time(row.median_us)} ± {time(row.iqr_us)}"
    return tag("td", shown, class_=" ".join(classes) or "no", title=tip)


# ---- errors ------------------------------------------------------------------------------------


def failures(rows: Sequence[Row]) -> Child:
    """Every kernel that was wrong, crashed or hung, with what it said."""
    # A cold and a warm row tell of the same failure.
    bad = {row.key[:-1]: row for row in rows if row.status in BROKEN}
    if not bad:
        return []
    lines = [
        tag(
            "tr",
            _named(f"{row.op}.{row.format}={row.variant}", f"{row.case}, {_threads(row)}"),
            tag("td", row.status, class_="bad"),
            tag("td", row.error_message, class_="w"),
        )
        for row in bad.values()
    ]
    caption = tag("caption", "What went wrong")
    names = head("kernel, case", "what", "message", n_words=3)
    return scrolling("Failures", tag("table", caption, names, tag("tbody", lines)))


def _threads(row: Row) -> str:
    return f"{row.n_threads} thread{'' if row.n_threads == 1 else 's'}"


def _named(name: str, below: str) -> Markup:
    """The head of a line: a name, and what it is about below it."""
    return tag("th", name, tag("span", below, class_="sub"), scope="row")


def errors(rows: Sequence[Row], op_css: dict[str, str]) -> list[Markup]:
    """For each op: of each format and variant the case that came nearest to its tolerance."""
    checked = [row for row in rows if row.error_share is not None]
    parts: list[Markup] = []
    for op in dict.fromkeys(row.op for row in checked):
        mine = [row for row in checked if row.op == op]
        groups = [
            _error_group(format, [row for row in mine if row.format == format])
            for format in dict.fromkeys(row.format for row in mine)
        ]
        worst = max(row.error_share or 0 for row in mine)
        title = f": the largest error is {percent(worst)} of what is allowed"
        caption = tag("caption", f"Errors of {op} against the NumPy reference")
        names = (
            "variant",
            "max abs error",
            "NMSE",
            "tolerance",
            "of what is allowed",
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
            f"{worst.case}, of {len({row.case for row in mine})}",
        )
        css = "bad" if share > 1 else None
        shown = [tag("td", cell, class_=css) for cell in cells]
        lines.append(tag("tr", tag("th", variant, scope="row"), shown))
    return [tag("tbody", tag("tr", title), class_="group"), tag("tbody", lines)]


# ---- peers -------------------------------------------------------------------------------------


def peers(engines: Sequence[EngineFile]) -> list[Markup]:
    """Bars of tokens per second, one group for each test."""
    parts = []
    for file in engines:
        made = [str(file.made_with.get(key, "")) for key in ("cpu", "commit", "date")]
        parts.append(tag("h3", file.name))
        parts.append(tag("p", ", ".join(filter(None, made)), class_="meta"))
        parts += [_peer_group(row) for row in file.rows]
    return parts


def _peer_group(row: EngineRow) -> Markup:
    most = max(speed.tokens_s for speed in row.speeds)
    cells: list[Markup] = []
    for i, speed in enumerate(row.speeds):
        bar = tag("i", style=f"width:{60 * speed.tokens_s / most:.1f}%")
        words = f"{number(speed.tokens_s)} tokens/s"
        if speed.ratio:
            low, middle, high = speed.ratio
            words += f" · ours {times(middle)} ({number(low)} to {number(high)})"
        elif row.roofline_share is not None:
            words += f" · {percent(row.roofline_share)} of the ceiling"
        name = f"{speed.engine}, {speed.setting}" if speed.setting else speed.engine
        css = "track" if i else "track ours"
        cells += [tag("div", name), tag("div", bar, tag("span", words, class_="v"), class_=css)]
    title = f"{row.label}, {row.test}, {row.n_threads} threads"
    return tag("figure", tag("figcaption", title), tag("div", cells, class_="peer"))


# ---- changes -----------------------------------------------------------------------------------


_VERDICTS = (
    ("faster", "good"),
    ("slower", "bad"),
    ("no longer timed", "bad"),
    ("numerics better", "good"),
    ("numerics worse", "bad"),
    ("numerics mended", "good"),
    ("numerics broken", "bad"),
    ("other machine", ""),
)


def change_tiles(comparison: Comparison) -> Markup:
    """How many rows are faster, slower, worse, ..., and how many are as they were."""
    counts = comparison.counts
    tiles = [
        tag("li", tag("b", f"{counts[name]:,}", class_=css), tag("span", name))
        for name, css in _VERDICTS
        if counts[name]
    ]
    n_same = sum(not change.is_real for change in comparison.changes)
    words = f"within the noise, of {len(comparison.changes):,} held against each other"
    return tag("ul", tiles, tag("li", tag("b", f"{n_same:,}"), tag("span", words)), class_="tiles")


def changes(comparison: Comparison) -> list[Markup]:
    """What is beyond the noise, row by row; the rest is counted."""
    real = [change for change in comparison.changes if change.is_real]
    parts = []
    if real:
        names = ("kernel, case", "speed", "numerics", "then", "now", "noise", "error then", "now")
        lines = [_change_line(change) for change in real[:_MOST_CHANGES]]
        more = f", the first {_MOST_CHANGES}" if len(real) > _MOST_CHANGES else ""
        caption = tag(
            "caption",
            f"{len(real)} rows changed beyond the noise{more}; errors as shares of the tolerance",
        )
        table = tag("table", caption, head(*names), tag("tbody", lines))
        parts.append(scrolling("Changes", table))
    else:
        parts.append(tag("p", "No row changed beyond the noise."))
    return parts + ([_engine_changes(comparison)] if comparison.engines else [])


def _change_line(change: Change) -> Markup:
    row = change.new
    marks = {"faster": "good", "slower": "bad", "no longer timed": "bad"}
    numerics = {"worse": "bad", "broken": "bad", "better": "good", "mended": "good"}
    errors = [percent(each.error_share) for each in (change.old, change.new)]
    noise = NOTHING if change.bound is None else f"±{percent(change.bound)}"
    speed = f"{times(change.ratio)} {change.speed}" if change.ratio else change.speed
    return tag(
        "tr",
        _named(f"{row.op}={row.variant}", f"{row.format} {row.case}, {_threads(row)}, {row.cache}"),
        tag("td", speed, class_=marks.get(change.speed)),
        tag("td", change.numerics, class_=numerics.get(change.numerics)),
        [tag("td", time(each.median_us)) for each in (change.old, change.new)],
        tag("td", noise),
        [tag("td", each) for each in errors],
    )


def _engine_changes(comparison: Comparison) -> Markup:
    lines = []
    for change in comparison.engines:
        css = {"faster": "good", "slower": "bad"}.get(change.speed)
        words = change.speed if not change.bound else f"{times(change.ratio)} {change.speed}"
        cells = [number(each.speeds[0].tokens_s) for each in (change.old, change.new)]
        lines.append(
            tag(
                "tr",
                tag("th", f"{change.new.label} {change.new.test}", scope="row"),
                [tag("td", cell) for cell in cells],
                tag("td", words, class_=css),
                tag("td", f"±{percent(change.bound)}"),
            )
        )
    caption = tag("caption", "Tokens per second of Pyroclast")
    names = head("model, test", "then", "now", "speed", "noise")
    return scrolling("Engine changes", tag("table", caption, names, tag("tbody", lines)))
