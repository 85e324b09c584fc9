"""Tokens per second of Pyroclast and its peers in a report, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from pyroclast.lab.report.data import EngineFile, EngineRow
from pyroclast.lab.report.html import Markup, number, percent, tag, times
from pyroclast.lab.speed.rows import threads


def peers(engines: Sequence[EngineFile]) -> list[Markup]:
    """Bars of tokens per second, a group for each test."""
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
            low, median, high = speed.ratio
            words += f" · Pyroclast is {times(median)} as fast ({number(low)} to {number(high)})"
        elif row.roofline_share is not None:
            words += f" · {percent(row.roofline_share)} of its ceiling"
        name = f"{speed.engine}, {speed.setting}" if speed.setting else speed.engine
        css = "track" if i else "track ours"
        cells += [tag("div", name), tag("div", bar, tag("span", words, class_="v"), class_=css)]
    title = f"{row.label}, {row.test}, {threads(row.n_threads)}"
    return tag("figure", tag("figcaption", title), tag("div", cells, class_="peer"))
