"""What Pyroclast writes to disk: each writer, by name, and the bytes that its file may hold."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from pyroclast.checkpoint.convert.run import convert
from pyroclast.lab.profile import chrome_trace
from pyroclast.lab.speed.result_file import write_result
from pyroclast_kernels import table_files
from torture.nursery import Nursery
from torture.record import Record
from torture.tiny_model import tiny_path

N_ROWS = 3000


def _convert(path: Path, version: int) -> None:
    convert(str(path.parents[1] / "source.gguf"), str(path), ("q8_0", "q4_0")[version], threads=1)


def _result(path: Path, version: int) -> None:
    write_result(path, {"rows": [{"row": i, "version": version} for i in range(N_ROWS)]})


def _table(path: Path, version: int) -> None:
    table_files.write_file(path, {"kind": "t", "rows": [version] * N_ROWS})


def _trace(path: Path, version: int) -> None:
    made = ({"ts": i, "version": version} for i in range(N_ROWS))
    recorded: Any = None
    with mock.patch.object(chrome_trace, "events", return_value=made):
        chrome_trace.write_trace(recorded, path, {})


# name -> (its file, writes version 0 or 1 of it)
WRITERS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "convert": ("model.gguf", _convert),
    "result": ("result.json", _result),
    "table": ("table.json", _table),
    "trace": ("trace.json", _trace),
}

_WRITE = """
from pathlib import Path
from torture.writers import WRITERS
WRITERS[argv[0]][1](Path(argv[1]), int(argv[2]))
"""


class Desk:
    """A folder for each writer, which holds its file and nothing else."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self.top = Path(tempfile.mkdtemp(prefix="desk-"))
        shutil.copy(tiny_path(), self.top / "source.gguf")
        self._wanted: dict[tuple[str, int], bytes] = {}
        for name in WRITERS:
            self.path(name).parent.mkdir(mode=0o700)
            for version in (1, 0):
                self.write(name, version)
                self._wanted[name, version] = self.path(name).read_bytes()

    def path(self, name: str) -> Path:
        return self.top / name / WRITERS[name][0]

    def write(self, name: str, version: int) -> str:
        """Writes the file in a process of its own; what was wrong with that."""
        ended = self._nursery.run(_WRITE, name, self.path(name), version)
        return "" if ended.code == 0 else f"{name} cannot be written: {ended}"

    def size(self, name: str, version: int) -> int:
        return len(self._wanted[name, version])

    def versions(self, name: str) -> list[int]:
        """Which versions the file is, byte for byte; none if it is half of one."""
        found = self.path(name).read_bytes()
        return [version for version in (0, 1) if self._wanted[name, version] == found]

    def litter(self, name: str) -> list[str]:
        """What else lies in the folder."""
        path = self.path(name)
        return [each.name for each in path.parent.iterdir() if each != path]


def runs(
    case: Callable[[random.Random, Nursery, Desk], list[str]],
) -> Callable[[int, float, Record], None]:
    """What a kind of torture runs: cases until the deadline, each with dice of its own."""

    def run(seed: int, deadline: float, record: Record) -> None:
        number = 0
        with Nursery() as nursery:
            desk = Desk(nursery)
            while time.monotonic() < deadline or not number:
                with record.case():
                    for what in case(random.Random(f"{seed} {number}"), nursery, desk):
                        record.finding(what)
                number += 1

    return run
