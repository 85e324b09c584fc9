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
PLAIN_UNITS = ("", "bytes", "bytes/s", "characters", "bits", "s")


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
    assert len(rows()) > 45


def test_every_limit_of_the_server_is_in_the_table() -> None:
    """Those of connections, and the constants that bound a field of a request."""
    shown = {where for _, _, where, _ in rows()}
    server = ROOT / "engine" / "pyroclast" / "server"
    limits = (server / "limits.py").read_text().split("class Limits:")[1].split("\n\n\n")[0]
    fields = re.findall(r"^    (\w+): (?:int|float) = ", limits, re.MULTILINE)
    assert len(fields) > 4
    assert {f"pyroclast.server.limits.Limits.{name}" for name in fields} <= shown
    for path in server.glob("*.py"):
        for name in re.findall(r"^(M(?:AX|IN)_\w+) = ", path.read_text(), re.MULTILINE):
            assert f"pyroclast.server.{path.stem}.{name}" in shown


def test_every_status_of_a_refusal_is_named() -> None:
    """But for a fault of the server, and what a client that is gone cannot read."""
    text = PAGE.read_text().split("over HTTP it is a ")[1].split(".")[0]
    code = "".join(path.read_text() for path in (ROOT / "engine/pyroclast/server").glob("*.py"))
    raised = set(re.findall(r"HttpError\(\s*(\d{3})\b", code)) - {"499", "500"}
    assert set(re.findall(r"\d{3}", text)) == raised


@pytest.mark.parametrize(("limit", "value", "where", "then"), rows(), ids=lambda cell: cell)
def test_a_limit_is_what_the_code_has(limit: str, value: str, where: str, then: str) -> None:
    if where.startswith("pyroclast.server"):
        pytest.importorskip("starlette", reason="pip install '.[server]'")
    assert constant(where) == number(value), limit
    for name in re.findall(r"`(\w+Error)`", then):
        assert issubclass(getattr(errors, name), errors.PyroclastError)


def test_the_limits_of_a_request_are_on_the_page_about_serving() -> None:
    """Each constant of the server or of a parameter that bounds a list of a request."""
    names = ("MAX_PROMPTS", "MAX_N", "MAX_STOPS", "MAX_STOP_CHARS", "MAX_TOOLS", "MAX_ITEMS")
    values = {where.rpartition(".")[2]: value for _, value, where, _ in rows()}
    page = (ROOT / "docs" / "serving.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    cells = " ".join(line.split("|")[2] for line in lines)
    for name in (*names, "MAX_LOGIT_BIASES"):
        number_of = values[name].removesuffix(" characters")
        assert re.search(rf"(?<![\d,]){number_of}(?![\d,])", cells), name


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
