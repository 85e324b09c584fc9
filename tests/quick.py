"""Which tests `--quick` runs: none marked slow or oracle, and of a test with many parameter sets an
even sample.  So every other test function runs at least once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

LEFT_OUT = ("slow", "oracle")
MAX_PER_FUNCTION = 8


class Item(Protocol):
    """What is asked of a pytest item."""

    nodeid: str

    def get_closest_marker(self, name: str) -> object: ...


T = TypeVar("T", bound=Item)


def chosen(tests: Sequence[T]) -> list[T]:
    """The tests that run, in their order."""
    fast = [t for t in tests if not any(t.get_closest_marker(name) for name in LEFT_OUT)]
    return sampled(fast, MAX_PER_FUNCTION)


def sampled(tests: Sequence[T], at_most: int) -> list[T]:
    """Of each test function at most so many (2 or more), in their order."""
    groups: dict[str, list[T]] = defaultdict(list)
    for test in tests:
        groups[test.nodeid.partition("[")[0]].append(test)
    kept = {id(test) for group in groups.values() for test in sample(group, at_most)}
    return [test for test in tests if id(test) in kept]


def sample(group: Sequence[T], at_most: int) -> list[T]:
    """At most so many of them, evenly spread, the first and the last included."""
    if len(group) <= at_most:
        return list(group)
    last = at_most - 1
    return [group[i * (len(group) - 1) // last] for i in range(at_most)]
