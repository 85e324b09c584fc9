"""A call written as JSON, {"name": ..., "arguments": {...}}, read a character at a time."""

from __future__ import annotations

import math
from typing import Any, NoReturn

from pyroclast.files.small_file import parse_json

ARGUMENT_KEYS = ("arguments", "parameters")
_MAX_HELD = 1 << 20  # characters that wait for a name before the text counts as no call


class CallObject:
    """One JSON object.  `take` reads on; `name` is set once, and `new_arguments` gives what came
    since it was last called.  `ended`: its last brace was read.  `failed`: it is not JSON.

    stops: `take` stops behind the name, so that what follows does not depend on the pieces."""

    def __init__(self, *, stops: bool = False) -> None:
        self._stops = stops
        self.name: str | None = None
        self.ended = self.failed = False
        self.n_read = 0
        # Lists: text that grows by a character at a time would be copied each time.
        self._raw: list[str] = []
        self._piece: list[str] = []  # the string or scalar that is being read at depth 1
        self._arguments: list[str] = []  # those that were not given yet
        self._quote = ""  # the first character of the arguments
        self._depth = 0
        self._in_string = self._escaped = False
        self._key: str | None = None  # the key whose value is being read, at depth 1

    @property
    def raw(self) -> str:
        """All that was read."""
        return "".join(self._raw)

    def take(self, text: str) -> str:
        """Reads the object's part of text and returns the rest."""
        n_taken, stops = len(text), self._stops and self.name is None
        for n, char in enumerate(text, 1):
            self._step(char)
            if self.name is None and self.n_read + n > _MAX_HELD:
                self.failed = True
            if self.failed or self.ended or (stops and self.name is not None):
                n_taken = n
                break
        self._raw.append(text[:n_taken])
        self.n_read += n_taken
        return text[n_taken:]

    def new_arguments(self) -> str:
        """What came since the last time; "{}" at the end of an object that has none."""
        if self._quote == '"' and not self.ended:
            return ""
        new, self._arguments = "".join(self._arguments), []
        if self._quote == '"':  # JSON inside a string of JSON
            return _inner(new) if new else ""
        if self.ended and not self._quote:
            self._quote = new = "{}"
        return new

    def _step(self, char: str) -> None:
        if self._key in ARGUMENT_KEYS and not (self._depth == 1 and self._ends_value(char)):
            if not self._quote and not char.isspace():
                self._quote = char
            if self._quote:
                self._arguments.append(char)
        if self._in_string:
            self._string(char)
        elif char == '"':
            self._in_string = True
            self._piece = [char]
        elif char in "{[":
            self._open(char)
        elif char in "}]":
            self._close()
        elif self._depth == 1 and char == ":":
            self._key, self._piece = self._decoded(), []
        elif self._depth == 1 and char == ",":
            self._end_value()

    def _ends_value(self, char: str) -> bool:
        return not self._in_string and char in ",}"

    def _string(self, char: str) -> None:
        if self._depth == 1:
            self._piece.append(char)
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            if self._depth == 1 and self._key == "name" and self.name is None:
                self.name = self._decoded()
        elif char < " ":
            pass  # models write bare line breaks inside strings: kept, the reader decides

    def _open(self, char: str) -> None:
        self._depth += 1
        self.failed = self._depth == 1 and char != "{"

    def _close(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._end_value()
            self.ended = True

    def _end_value(self) -> None:
        self._key, self._piece = None, []

    def _decoded(self) -> str | None:
        try:
            value = strict_json("".join(self._piece))
        except ValueError:
            self.failed = True
            return None
        return value if isinstance(value, str) else None


def _inner(text: str) -> str:
    try:
        value = strict_json(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def strict_json(text: str) -> Any:
    """The value of a JSON text; ValueError for what cannot be sent on as JSON: NaN, infinities,
    halves of characters, and nesting deeper than Python reads."""
    try:
        return parse_json(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is no finite number")
    return value
