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

    def at(self, text: str, start: int) -> str:
        """The longest name that begins at this place; "" if none does."""
        rest = text[start : start + self._longest]
        while rest and (i := bisect_right(self._names, rest)):
            name = self._names[i - 1]
            if rest.startswith(name):
                return name
            pairs = enumerate(zip(rest, name, strict=False))
            n_common = next((k for k, (a, b) in pairs if a != b), len(rest))
            rest = rest[:n_common]  # any shorter name is a beginning of this
        return ""

    def marked(self, text: str, mark: str) -> str:
        """The text with a mark before each name in it, also one that only the next text completes:
        each character of an end that begins a name is marked."""
        end = self._beginning(text)
        pieces, last = [], 0
        for match in self._first.finditer(text, 0, end):
            if self.at(text, match.start()):
                pieces.append(text[last : match.start()])
                last = match.start()
        return mark.join([*pieces, text[last:end]]) + "".join(mark + char for char in text[end:])

    def unmarked(self, text: str, mark: str) -> Iterator[tuple[int, str]]:
        """The names in a text that have no mark before them: (place, name), from left to right."""
        end = 0
        for match in self._first.finditer(text):
            start = match.start()
            if start >= end and text[start - 1 : start] != mark and (name := self.at(text, start)):
                yield start, name
                end = start + len(name)

    def _beginning(self, text: str) -> int:
        """Where the longest end of the text starts that is the beginning of a longer name."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            end = text[start:]
            i = bisect_right(self._names, end)
            if i < len(self._names) and self._names[i].startswith(end):
                return start
        return len(text)
