"""ARCHITECTURE.md held against the tree: the map, the life of a token, where to add."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from documents import ARCHITECTURE, ROOT, is_path
from test_layers import OPS, RANK_OF


def map_rows() -> list[tuple[int, str]]:
    """(rank, folder or file) of each row of ARCHITECTURE.md's map."""
    found = re.findall(r"^\| (\d+) \| `([\w/<>.]+)` \|", ARCHITECTURE.read_text(), re.MULTILINE)
    return [(int(rank), place) for rank, place in found]


def rank_of(place: str) -> int:
    """The rank that tests/test_layers.py gives to a place of the map."""
    parts = place.replace("<op>", "OPS").removesuffix("/").removesuffix(".py").split("/")
    return RANK_OF[".".join(parts[1:])]


def test_the_map_is_in_the_order_of_the_ranks() -> None:
    rows = map_rows()
    assert [rank for rank, _ in rows] == sorted(rank for rank, _ in rows)
    for (rank, place), (next_rank, next_place) in pairwise(rows):
        assert (rank == next_rank) == (rank_of(place) == rank_of(next_place)), next_place
        assert rank_of(place) <= rank_of(next_place), next_place


def test_the_map_has_every_folder() -> None:
    places = {place.removesuffix("/") for _, place in map_rows()}
    for package in ("engine/pyroclast", "kernels/pyroclast_kernels"):
        for folder in sorted(path.parent for path in (ROOT / package).glob("*/__init__.py")):
            place = f"{package}/{'<op>' if folder.name in OPS else folder.name}"
            assert place in places, f"ARCHITECTURE.md's map lacks {place}"


def test_the_life_of_a_token_has_at_most_twelve_lines_that_name_files() -> None:
    text = ARCHITECTURE.read_text().split("## The life of a token\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\d+\. (.*(?:\n   .*)*)", text, re.MULTILINE)
    assert 1 <= len(lines) <= 12
    assert [
        line for line in lines if not any(is_path(w) for w in re.findall("`(.*?)`", line))
    ] == []


@pytest.mark.parametrize("what", ["family", "op", "variant", "weight format", "command"])
def test_architecture_says_where_to_add(what: str) -> None:
    chapters = ARCHITECTURE.read_text().split("## Where to add\n")[1].split("\n### ")[1:]
    [chapter] = [c for c in chapters if re.fullmatch(f"An? {what}", c.splitlines()[0])]
    assert any(is_path(word) for word in re.findall(r"`([^`\n]+)`", chapter))
