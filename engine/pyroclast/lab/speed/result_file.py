"""Result files: JSON with one row a line, so that a change of one figure is a change of one line.

A result is an object whose rows stand under "rows", as a list or by name; everything else is its
header.  A result may hold further results, as a suite holds those of its parts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyroclast_kernels.whole_file import replacing

_ROWS = "rows"


def dump(result: dict[str, Any]) -> str:
    """The result as JSON: a line for each row, and for each part of the header."""
    return _text(result) + "\n"


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Writes the file, and its folder if need be.  After a failure the old file is still whole."""
    text = dump(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text.encode())


def without_samples(row: dict[str, Any]) -> dict[str, Any]:
    """The row as files keep it: its median and quartiles, not the single times behind them."""
    return {key: value for key, value in row.items() if not key.startswith("samples")}


def _text(result: dict[str, Any]) -> str:
    lines = []
    for key, value in result.items():
        if key == _ROWS:
            shown = _lines(value)
        elif isinstance(value, dict) and _holds_rows(value):
            shown = _text(value)
        else:
            shown = json.dumps(value)
        lines.append(f"{json.dumps(key)}: {shown}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _lines(rows: list[Any] | dict[str, Any]) -> str:
    """A line for each row."""
    if isinstance(rows, dict):
        named = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        return "{\n" + ",\n".join(named) + "\n}"
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]"


def _holds_rows(value: dict[str, Any]) -> bool:
    return _ROWS in value or any(
        isinstance(each, dict) and _holds_rows(each) for each in value.values()
    )
