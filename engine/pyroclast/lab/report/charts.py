"""What the charts of a report share: views of the rows, axes, marks, the legend, tooltips.

Charts are inline SVG.  Positions are percentages of the plot and sizes are pixels, so one drawing
fits a phone and a wide screen, and its text keeps its size.  Every mark has a <title>, which
browsers show and screen readers read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyroclast.lab.report.html import Markup, number, percent, tag, time, times
from pyroclast.lab.report.style import TECHNOLOGIES, technology_class, technology_of
from pyroclast.lab.speed.rows import Row, threads


@dataclass(frozen=True)
class View:
    """The rows of one number of threads and one state of the caches; css is its class."""

    n_threads: int
    cache: str
    rows: tuple[Row, ...]
    css: str

    @property
    def name(self) -> str:
        return f"{threads(self.n_threads)}, {self.cache}"


def views_of(rows: Sequence[Row]) -> list[View]:
    """Fewest threads first, cold before warm: a large model runs with cold caches."""
    keys = sorted({(row.n_threads, row.cache) for row in rows})
    return [
        View(n, cache, tuple(r for r in rows if (r.n_threads, r.cache) == (n, cache)), f"v{i}")
        for i, (n, cache) in enumerate(keys)
    ]


class Axis:
    """A logarithmic axis that fits some numbers above 0.  Call it for a position in percent."""

    def __init__(self, values: Iterable[float], pad: float = 0.06) -> None:
        logs = [math.log10(value) for value in values] or [0.0]
        low, high = min(logs), max(logs)
        room = max((high - low) * pad, 0.08)
        self.low, self.high = low - room, high + room

    def __call__(self, value: float) -> float:
        return 100 * (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """At most ten powers of ten, with 2 and 5 in between where there is room."""
        n_decades = self.high - self.low
        step = max(1, math.ceil(n_decades / 8))
        between = (1, 2, 5) if n_decades < 2 else (1, 3) if n_decades < 3 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        ticks = [m * 10.0**p for p in powers if p % step == 0 for m in between]
        return [tick for tick in ticks if 0 <= self(tick) <= 100]


def at(value: float) -> str:
    """A position or a length in percent."""
    return f"{value:.2f}%"


def mark(variant: str, x: float, y: float, tip: str, css: str = "") -> Markup:
    """A variant's mark at (x, y), in percent of the drawing, with a tooltip."""
    kind = technology_class(variant)
    classes = f"pt {kind} {css}".strip()
    return tag("use", tag("title", tip), href=f"#m-{kind}", x=at(x), y=at(y), class_=classes)


def symbols() -> Markup:
    """The shapes of the technologies, to be drawn once per page."""
    shapes = [
        tag("path", id=f"m-t{i}", d=shape) for i, (_, _, shape) in enumerate(TECHNOLOGIES.values())
    ]
    return tag("svg", tag("defs", shapes), width=0, height=0, aria_hidden="true", class_="defs")


def legend(rows: Sequence[Row]) -> Markup:
    """The marks of the technologies that were timed."""
    present = {technology_of(row.variant) for row in rows if row.median_us is not None}
    items = []
    for i, name in enumerate(TECHNOLOGIES):
        if name in present:
            use = tag("use", href=f"#m-t{i}", class_=f"t{i}")
            drawn = tag("svg", use, viewBox="-6 -6 12 12", aria_hidden="true")
            items.append(tag("li", drawn, name))
    return tag("ul", items, class_="legend")


def describe(row: Row) -> str:
    """A row in words, for a tooltip."""
    limit = f" of the {row.roofline_limit} limit" if row.roofline_limit else ""
    speed = f"{number(row.gb_s)} GB/s, {number(row.gflop_s)} GFLOP/s"
    return (
        f"{row.op}.{row.format} {row.case}\n{row.variant}: {time(row.median_us)} "
        f"± {time(row.iqr_us)}\n{speed}\n{percent(row.roofline_share)}{limit}, "
        f"{times(row.ratio_to_numpy)} NumPy"
        + ("\ndrifted: the machine was slow" * (row.status == "drifted"))
    )
