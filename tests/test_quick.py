"""`make test-quick` leaves out what it says, and lets every other test function run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import quick


@dataclass(frozen=True)
class Item:
    nodeid: str
    marks: tuple[str, ...] = ()

    def get_closest_marker(self, name: str) -> object:
        return name if name in self.marks else None


@pytest.mark.parametrize("mark", ["slow", "oracle"])
def test_marked_tests_are_left_out(mark: str) -> None:
    plain, marked = Item("a.py::plain"), Item("a.py::marked", (mark,))
    assert quick.chosen([marked, plain]) == [plain]


def test_other_marks_do_not_matter() -> None:
    assert quick.chosen([Item("a.py::x", ("native",))]) == [Item("a.py::x", ("native",))]


@pytest.mark.parametrize("n", [1, 7, 8, 9, 100])
def test_each_function_keeps_a_sample_in_order(n: int) -> None:
    many = [Item(f"a.py::many[{i}]") for i in range(n)]
    other = [Item("a.py::other"), Item("b.py::many[0]")]
    kept = quick.chosen([*many, *other])
    assert kept[-2:] == other
    sample = kept[:-2]
    assert len(sample) == min(n, quick.MAX_PER_FUNCTION)
    assert sample == sorted(sample, key=many.index)
    assert (sample[0], sample[-1]) == (many[0], many[-1])


@pytest.mark.parametrize("n", [1, 3, 4, 50])
def test_a_sample_of_any_size_leaves_nothing_else_out(n: int) -> None:
    slow = [Item(f"a.py::slow[{i}]", ("slow",)) for i in range(n)]
    kept = quick.sampled(slow, 3)
    assert len(kept) == min(n, 3) and (kept[0], kept[-1]) == (slow[0], slow[-1])
