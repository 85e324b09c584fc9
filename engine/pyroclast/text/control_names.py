"""Finding the names of control tokens in a text, in time that their number does not multiply."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator


class ControlNames:
    """The names of a vocabulary's control tokens, sorted, so that each look-up is a few steps."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = sorted({name for name in names if name})
        self._longest = max(map(len, self._names), default=0)
        firsts = "".join(sorted({re.escape(name[0]) for name in self._names}))
        self._first = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def at(self, text: str, start: int, stop: int) -> str:
        """The longest name that begins at this place and ends before `stop`; "" if none does."""
        rest = text[start : min(stop, start + self._longest)]
        while rest and (i := bisect_right(self._names, rest)):
            name = self._names[i - 1]
            if rest.startswith(name):
                return name
            pairs = enumerate(zip(rest, name, strict=False))
            n_common = next((k for k, (a, b) in pairs if a != b), len(rest))
            rest = rest[:n_common]  # any shorter name is a beginning of this
        return ""

    def found(self, text: str, written: bytes) -> Iterator[tuple[int, str]]:
        """The names in the characters that `written` marks with 1: (place, name), from left to
        right, the longest first.  A name that has one other character in it is none."""
        for run in re.finditer(b"\1+", written):
            end = run.start()
            for match in self._first.finditer(text, run.start(), run.end()):
                start = match.start()
                if start >= end and (name := self.at(text, start, run.end())):
                    yield start, name
                    end = start + len(name)
