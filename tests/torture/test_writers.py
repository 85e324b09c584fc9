"""Every module that writes files whole has a writer that the torture kills."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from torture.writers import WRITERS

ROOT = Path(__file__).resolve().parents[2]
# What their own writers use; the caches of compilers, which `cache-kill` has; and logs, which grow
# a line at a time: what reads them leaves out a last line that a kill has cut.
_BELOW = {
    "pyroclast_kernels.whole_file",
    "pyroclast_kernels.native.compile",
    "pyroclast.train.log",
}
_WRITES = re.compile(r"whole_file import|import .*\bwhole_file\b|os\.replace\(|\.replace\(out\)")


def writing_modules() -> set[str]:
    found = set()
    for top in (ROOT / "engine", ROOT / "kernels"):
        for path in top.rglob("*.py"):
            if _WRITES.search(path.read_text(encoding="utf-8")):
                found.add(".".join(path.relative_to(top).with_suffix("").parts))
    return found


def test_every_module_that_writes_files_is_killed_while_it_does() -> None:
    covered = {module for writer in WRITERS.values() for module in writer.modules}
    missing = writing_modules() - covered - _BELOW
    assert not missing, f"{missing} write files: add a writer of each to WRITERS"


@pytest.mark.parametrize("module", [m for each in WRITERS.values() for m in each.modules])
def test_the_modules_of_the_writers_are_there(module: str) -> None:
    assert importlib.util.find_spec(module) is not None
