"""JSONL files: an object a line, every line checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroclast.errors import RequestError, TrainingError
from pyroclast.files.small_file import read_small_file
from pyroclast.lab.batch.requests import parse_line

MAX_BYTES = 1 << 30


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(its place, for errors; the object) of every line that is not blank."""
    try:
        data = read_small_file(Path(path), MAX_BYTES, TrainingError)
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file") from None
    # Bytes: a text may hold characters at which str.splitlines would cut it, such as U+2028.
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            yield place, parse_line(line)
        except RequestError as error:
            raise TrainingError(f"{place}: {error}") from error
