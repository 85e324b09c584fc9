"""The limits that docs/security.md promises, held against the code's own numbers."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from typing import Any

import pytest

from documents import CONTRIBUTING, README, ROOT
from pyroclast import errors

PAGE = ROOT / "docs" / "security.md"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}
PLAIN_UNITS = ("", "bytes", "characters", "bits", "s")


def rows() -> list[tuple[str, str, str, str]]:
    """(limit, value, where, what happens) of each row of the table of limits."""
    table = PAGE.read_text().split("\n## Limits\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        (limit, value, where.replace("`, `", ".").strip("`"), then)
        for limit, value, where, _, then in cells
    ]


def number(value: str) -> float:
    """What a cell such as "16 MiB" says."""
    digits, _, unit = value.partition(" ")
    assert unit in (*PLAIN_UNITS, *UNITS), unit
    return float(digits.replace(",", "")) * UNITS.get(unit, 1)


def constant(path: str) -> Any:
    """The value of a dotted name: a module's, or a default of one of its classes."""
    names = path.split(".")
    for n in range(len(names), 0, -1):
        try:
            module = importlib.import_module(".".join(names[:n]))
        except ModuleNotFoundError:
            continue
        found = reduce(getattr, names[n:-1], module)
        fields = getattr(found, "__dataclass_fields__", {})
        return fields[names[-1]].default if names[-1] in fields else getattr(found, names[-1])
    raise AssertionError(f"no module of {path}")


def test_the_table_is_long() -> None:
    assert len(rows()) > 35


@pytest.mark.parametrize(("limit", "value", "where", "then"), rows(), ids=lambda cell: cell)
def test_a_limit_is_what_the_code_has(limit: str, value: str, where: str, then: str) -> None:
    if where.startswith("pyroclast.server"):
        pytest.importorskip("starlette", reason="pip install '.[server]'")
    assert constant(where) == number(value), limit
    for name in re.findall(r"`(\w+Error)`", then):
        assert issubclass(getattr(errors, name), errors.PyroclastError)


def test_a_false_number_would_be_found() -> None:
    assert number("16 MiB") == 1 << 24 == constant("pyroclast.files.small_file.CONFIG_BYTES")
    assert number("30 s") == 30 != constant("pyroclast.text.template_meter._CPU_SECONDS")
    with pytest.raises(AssertionError, match="weeks"):
        number("2 weeks")


def test_the_page_can_be_found() -> None:
    for document in (README, CONTRIBUTING):
        assert "(docs/security.md)" in document.read_text()


def test_it_names_no_address() -> None:
    assert not re.search(r"https?://|\S+@\S+\.\S+", PAGE.read_text())
