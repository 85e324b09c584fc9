"""The tables of a report that show what changed since another commit."""

from __future__ import annotations

from pyroclast.lab.report.change import Change, Comparison
from pyroclast.lab.report.html import NOTHING, Markup, number, percent, tag, time, times
from pyroclast.lab.report.tables import head, named, scrolling
from pyroclast.lab.speed.rows import threads

_MOST_CHANGES = 200
_VERDICTS = (
    ("faster", "good"),
    ("slower", "bad"),
    ("no longer timed", "bad"),
    ("numerics better", "good"),
    ("numerics worse", "bad"),
    ("numerics fixed", "good"),
    ("numerics broken", "bad"),
    ("other machine", ""),
)


def change_tiles(comparison: Comparison) -> Markup:
    """How many rows are faster, slower, worse, ..., and how many are the same."""
    counts = comparison.counts
    tiles = [
        tag("li", tag("b", f"{counts[name]:,}", class_=css), tag("span", name))
        for name, css in _VERDICTS
        if counts[name]
    ]
    n_same = sum(not change.is_real for change in comparison.changes)
    words = f"unchanged, of {len(comparison.changes):,} rows that both have"
    return tag("ul", tiles, tag("li", tag("b", f"{n_same:,}"), tag("span", words)), class_="tiles")


def changes(comparison: Comparison) -> list[Markup]:
    """The rows that changed beyond the noise."""
    real = [change for change in comparison.changes if change.is_real]
    parts = []
    if real:
        names = (
            "kernel, case",
            "speed",
            "numerics",
            "before",
            "now",
            "noise",
            "error before",
            "now",
        )
        lines = [_change_line(change) for change in real[:_MOST_CHANGES]]
        more = f" (the first {_MOST_CHANGES} are shown)" if len(real) > _MOST_CHANGES else ""
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
    numerics = {"worse": "bad", "broken": "bad", "better": "good", "fixed": "good"}
    errors = [percent(each.error_share) for each in (change.old, change.new)]
    noise = NOTHING if change.bound is None else f"±{percent(change.bound)}"
    speed = f"{times(change.ratio)} {change.speed}" if change.ratio else change.speed
    return tag(
        "tr",
        named(
            f"{row.op}={row.variant}",
            f"{row.format} {row.case}, {threads(row.n_threads)}, {row.cache}",
        ),
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
    names = head("model, test", "before", "now", "speed", "noise")
    return scrolling("Engine changes", tag("table", caption, names, tag("tbody", lines)))
