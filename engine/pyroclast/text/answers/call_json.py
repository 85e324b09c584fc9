"""A call written as JSON, {"name": ..., "arguments": {...}}, read a character at a time."""

from __future__ import annotations

import json

ARGUMENT_KEYS = ("arguments", "parameters")
_MAX_HELD = 1 << 20  # characters that wait for a name before the text counts as no call


class CallObject:
    """One JSON object.  `take` reads on; `name` is set once, and `new_arguments` gives what came
    since it was last called.  `ended`: its last brace was read.  `failed`: it is not JSON."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.ended = self.failed = False
        self.raw = ""
        self._depth = 0
        self._in_string = self._escaped = False
        self._key: str | None = None  # the key whose value is being read, at depth 1
        self._piece = ""  # the string or scalar that is being read at depth 1
        self._arguments = ""
        self._n_given = 0

    def take(self, text: str) -> str:
        """Reads the object's part of text and returns the rest."""
        for at, char in enumerate(text):
            self._step(char)
            self.raw += char
            if self.failed or (len(self.raw) > _MAX_HELD and self.name is None):
                self.failed = True
                return text[at + 1 :]
            if self.ended:
                return text[at + 1 :]
        return ""

    def new_arguments(self) -> str:
        """What came since the last time; "{}" at the end of an object that has none."""
        if self.ended and not self._arguments.strip():
            self._arguments = "{}"
        if self.ended and self._arguments.startswith('"'):  # JSON inside a string of JSON
            self._arguments, self._n_given = _inner(self._arguments), 0
        elif self._arguments.startswith('"'):
            return ""
        new, self._n_given = self._arguments[self._n_given :], len(self._arguments)
        return new

    def _step(self, char: str) -> None:
        if self._key in ARGUMENT_KEYS and not (self._depth == 1 and self._ends_value(char)):
            self._arguments += char if self._arguments or not char.isspace() else ""
        if self._in_string:
            self._string(char)
        elif char == '"':
            self._in_string = True
            self._piece = char
        elif char in "{[":
            self._open(char)
        elif char in "}]":
            self._close()
        elif self._depth == 1 and char == ":":
            self._key, self._piece = self._decoded(), ""
        elif self._depth == 1 and char == ",":
            self._end_value()

    def _ends_value(self, char: str) -> bool:
        return not self._in_string and char in ",}"

    def _string(self, char: str) -> None:
        self._piece += char if self._depth == 1 else ""
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped = True
        elif char == '"':
            self._in_string = False
            if self._depth == 1 and self._key == "name":
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
        self._key, self._piece = None, ""

    def _decoded(self) -> str | None:
        try:
            value = json.loads(self._piece)
        except ValueError:
            self.failed = True
            return None
        return value if isinstance(value, str) else None


def _inner(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text
