"""How long steps of a kind take: the median of the last few, by how many texts are in them."""

from __future__ import annotations

from collections import deque

_N_TIMES = 7


class MedianTimes:
    """Seconds by a whole number.  A number that was never noted takes as long as the nearest one
    that was."""

    __slots__ = ("_medians", "_times")

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}

    def note(self, n: int, seconds: float) -> None:
        times = self._times.setdefault(n, deque(maxlen=_N_TIMES))
        times.append(seconds)
        self._medians[n] = sorted(times)[len(times) // 2]

    def known(self, n: int) -> float | None:
        """None unless that very number was noted."""
        return self._medians.get(n)

    def of(self, n: int) -> float | None:
        """None before the first note."""
        found = self._medians.get(n)
        if found is None and self._medians:
            return self._medians[min(self._medians, key=lambda each: abs(each - n))]
        return found
