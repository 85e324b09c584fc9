"""The page of a report: one HTML file that needs no other file and no network.

Radio buttons and CSS choose the threads, caches, op and measure.  The only script shows tooltips.
Its hash stands in the page's Content-Security-Policy, so no other script runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pyroclast.lab.report.charts import View, symbols, views_of
from pyroclast.lab.report.data import Inputs
from pyroclast.lab.report.html import Markup, percent, tag, times
from pyroclast.lab.report.sections import (
    Against,
    choice,
    contents,
    section_change,
    section_errors,
    section_heat,
    section_notes,
    section_numpy,
    section_peers,
    section_roofline,
)
from pyroclast.lab.report.style import SCRIPT, css, policy
from pyroclast.lab.report.tables import failures
from pyroclast.lab.speed.rows import BLAS, BROKEN, Row, by_case


def page(inputs: Inputs, against: Against | None) -> str:
    """The text of the HTML file."""
    rows = inputs.kernels.rows
    views, ops = views_of(rows), list(dict.fromkeys(row.op for row in rows))
    op_css = {op: f"o{i + 1}" for i, op in enumerate(ops)}
    title = f"Pyroclast kernels on {_made(inputs, 'cpu')}"
    change = section_change(against) if against else []
    below = [
        section_roofline(inputs, views, op_css),
        section_heat(views, op_css),
        section_numpy(views, op_css),
        section_errors(rows, op_css),
        section_peers(inputs),
        section_notes(inputs),
    ]
    links = contents([change, *below])
    top = [_header(inputs), _tiles(rows), links, change, failures(rows), _bar(views, ops)]
    body = [
        symbols(),
        tag("main", top, below),
        # Ours and constant: escaping would change it, and its hash.
        tag("script", Markup(SCRIPT)),
    ]
    meta = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(css(len(views), len(ops)))),
    ]
    return "<!doctype html>\n" + tag("html", tag("head", meta), tag("body", body), lang="en") + "\n"


def _made(inputs: Inputs, name: str) -> str:
    return str(inputs.kernels.environment.get(name, "an unknown machine" if name == "cpu" else "?"))


def _header(inputs: Inputs) -> list[Markup]:
    made = [f"commit {_made(inputs, 'commit')}", _made(inputs, "date")]
    made += [f"{name} {_made(inputs, name)}" for name in ("python", "numpy")]
    made.append(f"tuned table: {_made(inputs, 'table')}")
    lead = (
        "Every kernel of every hot operation of a language model: checked against the NumPy "
        "reference, then timed and compared with what this machine can do."
    )
    return [
        tag("p", "Pyroclast kernel report", class_="kicker"),
        tag("h1", _made(inputs, "cpu")),
        tag("p", lead),
        tag("p", " · ".join(made), class_="meta"),
    ]


def _tiles(rows: Sequence[Row]) -> Markup:
    """The figures to read first."""
    timed = [row for row in rows if row.is_timed]
    ran = [row for row in rows if row.status != "unsupported"]
    bad = len({row.key[:-1] for row in ran if row.status in BROKEN})
    n_checks = len({row.key[:-1] for row in ran})
    ratios, shares = _best(timed)
    drifted = sum(row.status == "drifted" for row in rows) / max(len(timed), 1)
    verdict = (
        (f"{bad} wrong, crashed or hung", "bad") if bad else ("all match the reference", "good")
    )
    ratio, share = (statistics.median(each) if each else None for each in (ratios, shares))
    best = "median over all cases, with the best kernel of each"
    tiles = [
        (f"{n_checks:,}", "checks of one kernel on one case: ", verdict),
        (times(ratio), f"the speed of NumPy: {best}", None),
        (percent(share), f"of the roofline: {best}", None),
        (percent(drifted), "of the timings drifted: the machine was slower than at its best", None),
    ]
    items = []
    for figure, words, mark in tiles:
        colour = tag("em", mark[0], class_=mark[1]) if mark else ""
        items.append(tag("li", tag("b", figure), tag("span", words, colour)))
    return tag("ul", items, class_="tiles")


def _best(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The best ratio to NumPy and the best share of the roofline in each case, among the kernels
    that the engine may choose."""
    own = [row for row in rows if row.variant not in ("numpy", BLAS)]
    groups = list(by_case(own).values())
    ratios = [[r.ratio_to_numpy for r in g if r.ratio_to_numpy is not None] for g in groups]
    shares = [[r.roofline_share for r in g if r.roofline_share is not None] for g in groups]
    return [max(g) for g in ratios if g], [max(g) for g in shares if g]


def _bar(views: Sequence[View], ops: Sequence[str]) -> Markup:
    chosen = [(f"view-{i}", view.name) for i, view in enumerate(views)]
    every = [("op-0", "all"), *((f"op-{i}", op) for i, op in enumerate(ops, 1))]
    return tag("div", choice("view", "Run", chosen), choice("op", "Op", every), class_="bar")
