"""Filters and methods of chat templates whose Python versions will not do here: they could produce
more than the size of their arguments, or would forget what the template wrote itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import markupsafe
from jinja2 import Environment
from jinja2.filters import make_attrgetter

from pyroclast.errors import TemplateError
from pyroclast.text.template_meter import SLOT_UNITS, Meter
from pyroclast.text.template_text import (
    TemplateText,
    formatted,
    is_mixed,
    joined,
    method,
    replaced,
    safe,
)

_MAX_INDENT = 64
# A format field may pad to 999 characters.
_FIELD_UNITS = 1000
_PIECE_UNITS = 16  # a piece of a text of two writers
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_WIDE_FIELD = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)|\{[^{}:]*:[^{}]*(?:\d{4}|\{)")


def allow_format(meter: Meter, pattern: str, values: object) -> None:
    """Refuse a format whose result would be too large."""
    if _WIDE_FIELD.search(pattern):
        raise TemplateError(f"the chat template formats with a width or *: {pattern[:80]!r}")
    units = meter.bound(values, printable=True)
    n_fields = pattern.count("{") + pattern.count("%")
    meter.allow(len(pattern) + n_fields * (units + _FIELD_UNITS))


class OwnFilters:
    """`table()` has the filters by name; `join`, `replace` and `method` are methods of strings."""

    def __init__(self, environment: Environment, meter: Callable[[], Meter]) -> None:
        self._environment = environment
        self._meter = meter

    def table(self) -> dict[str, Callable[..., Any]]:
        """Filters that take the place of jinja2's."""
        return {
            **{name: self._changed(name) for name in ("capitalize", "lower", "upper")},
            "e": self._escape,
            "escape": self._escape,
            "format": self._format,
            "indent": self.indent,
            "join": self.join,
            "replace": self._replace,
            "safe": lambda value: safe(self._meter().text(value)),
            "string": str,
            "tojson": self.tojson,
            "trim": self._trim,
        }

    def _escape(self, value: object) -> str:
        return str(markupsafe.escape(self._meter().text(value)))

    def _format(self, pattern: object, *args: Any, **kwargs: Any) -> str:
        text = self._meter().text(pattern)
        allow_format(self._meter(), text, kwargs or args)
        return formatted(text, kwargs or args)

    def _changed(self, name: str) -> Callable[[object], str]:
        def change(value: object) -> str:
            return str(self.method(self._meter().text(value), name, (), {}))

        return change

    def _replace(self, value: object, old: object, new: object, count: int | None = None) -> str:
        text = self._meter().text
        return self.replace(text(value), text(old), text(new), count)

    def _trim(self, value: object, chars: str | None = None) -> str:
        return str(self.method(self._meter().text(value), "strip", (chars,), {}))

    def join(self, values: Any, d: str = "", attribute: str | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self._environment, attribute), values)
        texts = [self._meter().text(value) for value in values]
        self._meter().allow(len(d) * len(texts))
        return str(self._meter().made(joined(texts, d)))

    def replace(self, text: str, old: str, new: str, count: int | None = None) -> str:
        self._meter().allow(len(text) + text.count(old) * len(new))
        if is_mixed(text):
            self._meter().allow(_PIECE_UNITS * text.count(old))
        return str(self._meter().made(replaced(text, old, new, -1 if count is None else count)))

    def method(self, text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A method of strings that keeps the marks of a TemplateText."""
        if not isinstance(text, TemplateText):
            return self._meter().made(getattr(text, name)(*args, **kwargs))
        if name in ("split", "rsplit", "splitlines"):
            n_pieces = len(getattr(str, name)(text, *args, **kwargs))
            self._meter().allow(_PIECE_UNITS * n_pieces)
        return self._meter().made(method(text, name, args, kwargs))

    def indent(
        self, value: object, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        margin = " " * min(width, _MAX_INDENT) if isinstance(width, int) else width[:_MAX_INDENT]
        text = self._meter().text(value)
        lines = self.method(text, "split", ("\n",), {})
        self._meter().allow(SLOT_UNITS * len(lines) * len(margin))
        padded = [joined((margin, line)) if line or blank else line for line in lines]
        return joined([padded[0] if first else lines[0], *padded[1:]], "\n")

    def tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not 0 <= indent <= _MAX_INDENT:
            raise TemplateError(f"tojson: indent must be 0..{_MAX_INDENT}, got {indent}")
        encoder = json.JSONEncoder(
            ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
        )
        separator_units = sum(map(len, separators or ()))
        self._meter().allow(separator_units * self._meter().bound(value, printable=True))
        text = "".join(self._meter().drained(encoder.iterencode(value)))
        if ensure_ascii:
            return _NOT_ASCII.sub(self._ascii, text)
        return text

    def _ascii(self, match: re.Match[str]) -> str:
        self._meter().spend(len(match[0]))
        return json.dumps(match[0])[1:-1]
