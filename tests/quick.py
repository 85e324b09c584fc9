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
    groups: dict[str, list[T]] = defaultdict(list)
    for test in tests:
        if not any(test.get_closest_marker(name) for name in LEFT_OUT):
            groups[test.nodeid.partition("[")[0]].append(test)
    kept = {id(test) for group in groups.values() for test in sample(group)}
    return [test for test in tests if id(test) in kept]


def sample(group: Sequence[T]) -> list[T]:
    """At most MAX_PER_FUNCTION of them, evenly spread, the first and the last included."""
    if len(group) <= MAX_PER_FUNCTION:
        return list(group)
    last = MAX_PER_FUNCTION - 1
    return [group[i * (len(group) - 1) // last] for i in range(MAX_PER_FUNCTION)]
