"""The page of a report: one HTML file that needs nothing else, no network least of all.

What is chosen (threads, caches, op, measure) is a matter of radio buttons and CSS; the only script
shows tooltips, and its hash stands in the page's Content-Security-Policy, so no other script runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyroclast.lab.report.change import Comparison
from pyroclast.lab.report.charts import (
    View,
    lanes,
    legend,
    roofline,
    symbols,
    views_of,
)
from pyroclast.lab.report.data import Inputs
from pyroclast.lab.report.html import TIMES, Child, Markup, number, percent, tag, times
from pyroclast.lab.report.style import (
    RATIO_LIMITS,
    RATIO_STEPS,
    SCRIPT,
    SHARE_STEPS,
    css,
    ink_on,
    policy,
)
from pyroclast.lab.report.tables import (
    change_tiles,
    changes,
    errors,
    failures,
    heat_maps,
    peers,
)
from pyroclast.lab.speed.rows import BLAS, BROKEN, Row, by_case

_ABOVE = 1.1  # of a ceiling: no noise any more
_CACHES = (
    "cold: copies of the arguments in random order, three times the last cache in all",
    "warm: the same arguments every time",
    "cold on a GPU: one launch, after the L2 was flushed",
    "warm on a GPU: one CUDA graph of many launches",
)


@dataclass(frozen=True)
class Against:
    """What the results are held against: the commit, as asked for and in full."""

    revision: str
    commit: str
    comparison: Comparison


def page(inputs: Inputs, against: Against | None) -> str:
    """The whole HTML file."""
    rows = inputs.kernels.rows
    views, ops = views_of(rows), list(dict.fromkeys(row.op for row in rows))
    op_css = {op: f"o{i + 1}" for i, op in enumerate(ops)}
    title = f"Pyroclast kernels on {_made(inputs, 'cpu')}"
    body = [
        symbols(),
        tag(
            "main",
            _header(inputs),
            _tiles(rows),
            _section_change(against) if against else [],
            failures(rows),
            _bar(views, ops),
            _section_roofline(inputs, views, op_css),
            _section_heat(views, op_css),
            _section_numpy(views, op_css),
            _section_errors(rows, op_css),
            _section_peers(inputs),
            _section_notes(inputs),
        ),
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
        "Every implementation of every hot operation of a language model, checked against the "
        "NumPy reference first, then timed beside what this machine can do."
    )
    return [
        tag("p", "Pyroclast kernel report", class_="kicker"),
        tag("h1", _made(inputs, "cpu")),
        tag("p", lead),
        tag("p", " · ".join(made), class_="meta"),
    ]


def _tiles(rows: Sequence[Row]) -> Markup:
    """The figures that one reads first."""
    timed = [row for row in rows if row.is_timed]
    ran = [row for row in rows if row.status != "unsupported"]
    bad = len({row.key[:-1] for row in ran if row.status in BROKEN})
    n_checks = len({row.key[:-1] for row in ran})
    ratios, shares = _best(timed)
    drifted = sum(row.status == "drifted" for row in rows) / max(len(timed), 1)
    verdict = (f"{bad} wrong, crashed or hung", "bad") if bad else ("all as the reference", "good")
    ratio, share = (statistics.median(each) if each else None for each in (ratios, shares))
    best = "the best kernel of each case, the middle of all"
    tiles = [
        (f"{n_checks:,}", "checks of a kernel on a case: ", verdict),
        (times(ratio), f"NumPy's speed: {best}", None),
        (percent(share), f"of the roofline: {best}", None),
        (percent(drifted), "of the timings met a machine that drifted", None),
    ]
    items = []
    for figure, words, mark in tiles:
        colour = tag("em", mark[0], class_=mark[1]) if mark else ""
        items.append(tag("li", tag("b", figure), tag("span", words, colour)))
    return tag("ul", items, class_="tiles")


def _best(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Of each case: the best ratio to NumPy and the best share of the roofline that a kernel which
    the engine may choose came to."""
    own = [row for row in rows if row.variant not in ("numpy", BLAS)]
    groups = list(by_case(own).values())
    ratios = [[r.ratio_to_numpy for r in g if r.ratio_to_numpy is not None] for g in groups]
    shares = [[r.roofline_share for r in g if r.roofline_share is not None] for g in groups]
    return [max(g) for g in ratios if g], [max(g) for g in shares if g]


def _above(rows: Sequence[Row]) -> Child:
    """A warning if timings stand above the ceilings by more than noise."""
    n_above = sum((row.roofline_share or 0) > _ABOVE for row in rows)
    if not n_above:
        return []
    words = (
        f"{n_above} of {len(rows)} timings stand more than 10% above their ceiling: the machine "
        "was busy while its ceilings were measured, or the data stayed in a cache. Shares of this "
        "run are too high; measure again on a quiet machine."
    )
    return tag("p", words, class_="note", role="note")


def _choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> Markup:
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


def _bar(views: Sequence[View], ops: Sequence[str]) -> Markup:
    chosen = [(f"view-{i}", view.name) for i, view in enumerate(views)]
    every = [("op-0", "all"), *((f"op-{i}", op) for i, op in enumerate(ops, 1))]
    return tag("div", _choice("view", "Run", chosen), _choice("op", "Op", every), class_="bar")


def _by_view(views: Sequence[View], draw: Callable[[View], Child]) -> list[Markup]:
    return [tag("div", draw(view), class_=f"view {view.css}") for view in views]


def _section_roofline(inputs: Inputs, views: Sequence[View], op_css: dict[str, str]) -> Child:
    words = (
        "Each mark is one kernel on one case. The lines are what this machine was seen to do in "
        "the same run: reading on the slope, multiplying and adding on the flat parts. Nothing "
        "should stand above them, and what touches them cannot be made faster."
    )
    ceilings = inputs.kernels.ceilings
    return [
        tag("h2", "Roofline"),
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


def _section_heat(views: Sequence[View], op_css: dict[str, str]) -> Child:
    metrics = [("metric-share", "share of the roofline"), ("metric-ratio", "ratio to NumPy")]
    shares = ["from 0%", *(f"{10 * i}%" for i in range(1, len(SHARE_STEPS)))]
    limits = [f"from 0{TIMES}", *map(times, RATIO_LIMITS)]
    return [
        tag("h2", "Heat map"),
        tag("p", "Cases down, kernels across. A dash: the kernel does not take the format."),
        _choice("metric", "Show", metrics),
        _scale("ms", SHARE_STEPS, shares),
        _scale("mr", RATIO_STEPS, limits),
        _by_view(views, lambda view: heat_maps(view, op_css)),
    ]  # fmt: skip


def _section_numpy(views: Sequence[View], op_css: dict[str, str]) -> Child:
    words = (
        "Small marks are cases, large ones the middle of a kernel's cases; the thick line is "
        "NumPy. On the right the best kernel that the engine may choose. NumPy + BLAS, given "
        "its weights as float32 beforehand, only stands beside."
    )
    draw = [tag("h2", "Speed against NumPy"), tag("p", words)]
    return [*draw, tag("figure", _by_view(views, lambda view: lanes(view, op_css)))]


def _section_errors(rows: Sequence[Row], op_css: dict[str, str]) -> Child:
    words = (
        "Each output is held against the NumPy reference within a bound derived for the case; the "
        "share says how much of it the worst element used. Above 100% the kernel is wrong."
    )
    return [tag("h2", "Errors"), tag("p", words), errors(rows, op_css)]


def _section_peers(inputs: Inputs) -> Child:
    if not inputs.engines:
        return []
    words = (
        "Whole generations, each engine in turn on the same weights; ratios with quartiles over "
        "the repetitions, above 1 Pyroclast is faster."
    )
    return [tag("h2", "Tokens per second"), tag("p", words), peers(inputs.engines)]


def _section_change(against: Against) -> Child:
    comparison = against.comparison
    noise = (
        "A speed is marked only beyond its noise bound: 5%, or both spreads, both drifts and the "
        "difference of the anchor together, if they are more."
    )
    lost = f"Rows that are new: {comparison.n_new}; that are gone: {comparison.n_gone}."
    return [
        tag("h2", f"Change since {against.revision}"),
        tag("p", f"commit {against.commit}", class_="meta"),
        change_tiles(comparison),
        tag("p", f"{noise} {lost}", class_="meta"),
        changes(comparison),
    ]


def _section_notes(inputs: Inputs) -> Child:
    ceilings = [
        f"{c.kind}{f' of {c.n_bytes >> 20} MiB' if c.n_bytes else ''}, {c.n_threads} threads: "
        f"{number(c.value)} {c.unit} ({c.how})"
        for c in inputs.kernels.ceilings
    ]
    settings: dict[str, Any] = dict(inputs.kernels.settings)
    asked = [f"{key}: {value}" for key, value in settings.items() if value not in (None, False)]
    lists = (("Ceilings", ceilings), ("Caches", _CACHES), ("Settings", asked))
    return [
        tag("h2", "How it was measured"),
        tag("p", f"Of {inputs.kernels_file}, {len(inputs.kernels.rows)} rows.", class_="meta"),
        [
            tag("details", tag("summary", title), tag("ul", [tag("li", x) for x in items]))
            for title, items in lists
            if items
        ],
    ]
