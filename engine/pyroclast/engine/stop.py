"""Stop strings in a stream of text, wherever the pieces of the stream happen to be cut."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes text on up to the first stop string, holding back what could be the start of one.

    The result depends on the text alone, not on how it is cut into pieces: of several stop
    strings the one that is complete first wins, and among those that end together the longest.
    A stop string counts if its last character counts, wherever it begins.  After `found` is set
    nothing more comes out.
    """

    __slots__ = ("_firsts", "_held", "_n_uncounted", "_stops", "found")

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops`: non-empty strings."""
        # Longest first, so that of two that end at the same place the longest is met first.
        self._stops = sorted(stops, key=len, reverse=True)
        self._firsts = frozenset(stop[0] for stop in stops)
        self._held = ""
        self._n_uncounted = 0  # characters of _held at which no stop string may end
        self.found: str | None = None

    def push(self, text: str, counts: bool = True) -> str:
        """The text that is now certain to lie before any stop string.  Unless it `counts`, none
        ends in this piece, but one that begins in it is found when it ends in a later one."""
        if self.found is not None:
            return ""
        if not self._held and self._firsts.isdisjoint(text):
            return text  # mostly so: no stop string begins
        text = self._held + text
        if not counts:
            self._n_uncounted = len(text)
        first_end = len(text) + 1
        for stop in self._stops:
            start = text.find(stop, max(0, self._n_uncounted - len(stop) + 1), first_end)
            if start >= 0 and start + len(stop) < first_end:
                first_end = start + len(stop)
                self.found = stop
        if self.found is not None:
            self._held = ""
            return text[: first_end - len(self.found)]
        n_certain = len(text) - self._n_held(text)
        self._held = text[n_certain:]
        self._n_uncounted = max(0, self._n_uncounted - n_certain)
        return text[:n_certain]

    def flush(self) -> str:
        """The stream has ended: what was held back is plain text after all."""
        held, self._held = self._held, ""
        return held

    def _n_held(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        first = len(text)
        for stop in self._stops:
            start = text.find(stop[0], max(0, len(text) - len(stop) + 1), first)
            while start >= 0 and not stop.startswith(text[start:]):
                start = text.find(stop[0], start + 1, first)
            if start >= 0:
                first = start
        return len(text) - first
