"""Builds HTML and SVG that a hostile result file cannot inject markup into.

`tag` escapes every string, attributes included.  Only a Markup, which `tag` itself made, goes in as
it is.  So a name with "<script>" in it is text wherever it appears.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

NOTHING = "\N{EN DASH}"  # where there is no figure
TIMES = "\N{MULTIPLICATION SIGN}"
_VOID = frozenset(("meta", "link", "br", "col", "hr", "input"))


class Markup(str):
    """A string that is markup already."""

    __slots__ = ()


Child = str | Iterable["Child"]


def text_of(child: Child) -> Markup:
    """One child as markup: strings are escaped, lists are joined."""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return Markup(html.escape(child))
    return Markup("".join(map(text_of, child)))


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """<name ...>children</name>.  Attributes: None and False are left out, `class_` is class,
    `data_op` is data-op."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown_key = key.rstrip("_").replace("_", "-")
        words.append(shown_key if value is True else f'{shown_key}="{html.escape(str(value))}"')
    opened = f"<{' '.join(words)}>"
    return Markup(opened if name in _VOID else f"{opened}{text_of(children)}</{name}>")


def number(value: float | None) -> str:
    """Three significant digits: 12.3, 0.0123, 1,230, 1.2e-09; a dash for None."""
    if value is None:
        return NOTHING
    size = abs(value)
    if size != 0 and not 1e-3 <= size < 1e6:
        return f"{value:.1e}"
    for limit, digits in ((100, 0), (10, 1), (1, 2)):
        if size >= limit:
            return f"{value:,.{digits}f}"
    return f"{value:.3g}"


def time(us: float | None) -> str:
    """A time with its unit."""
    if us is None:
        return NOTHING
    for limit, unit in ((1e6, "s"), (1e3, "ms"), (1, "µs")):
        if us >= limit:
            return f"{number(us / limit)} {unit}"
    return f"{number(us * 1000)} ns"


def percent(value: float | None) -> str:
    """A share: 0.634 is 63%."""
    return NOTHING if value is None else f"{value:.0%}" if value >= 0.095 else f"{value:.1%}"


def times(value: float | None) -> str:
    """A ratio: 3.2 times."""
    return NOTHING if value is None else f"{number(value)}{TIMES}"
