"""docs/add-a-kernel.md, followed to the letter: its commands, its edits, and what they print.

Times differ from machine to machine; every other line must be printed as it is shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyroclast_kernels.selection import all_variants

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "add-a-kernel.md"
_PROFILED = re.compile(r"^\| norm\.f32 +\|.*%.*\| numba-rows +\|$", re.MULTILINE)
_TIMED = re.compile(r"^  [\w-]+ +[\d.]+ +[\d.]+ ")


def steps() -> Iterator[tuple[str, str]]:
    """(language, body) of the page's fenced blocks."""
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def run(line: str, folder: Path) -> tuple[int, str]:
    """Exit code and output of a line of the page."""
    words = line.split()
    given = dict(word.split("=") for word in words if re.match(r"[A-Z_]+=", word))
    words = words[len(given) :]
    assert words[0] == "pyroclast"
    paths = os.pathsep.join(str(ROOT / each) for each in ("engine", "kernels"))
    env = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(folder / "cache"), **given}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def edit(body: str, folder: Path) -> None:
    """Applies a diff without line numbers: its old lines must be there once."""
    head, *lines = body.splitlines()
    path = folder / head.removeprefix("--- ")
    old = "".join(line[1:] + "\n" for line in lines if line[0] in " -")
    new = "".join(line[1:] + "\n" for line in lines if line[0] in " +")
    text = path.read_text()
    assert text.count(old) == 1, f"the page changes what is not in the file:\n{old}"
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    codes = []
    for language, body in steps():
        if language == "diff":
            edit(body, tmp_path)
            continue
        command, *shown = body.removeprefix("$ ").splitlines()
        code, printed = run(command, tmp_path)
        codes.append(code)
        for line in shown:
            if _PROFILED.match(line):
                assert len(_PROFILED.findall(printed)) == 2, printed  # prompt and decoding
            elif _TIMED.match(line):
                assert line.split()[0] in (*all_variants("norm"), "numba-rows")
            else:
                assert line in printed.splitlines(), printed
    assert codes == [0, 0, 0, 1, 0]
    assert "norm.f32=numba-rows" in printed


def test_the_page_shows_commands_edits_and_a_failure() -> None:
    languages = [language for language, _ in steps()]
    assert languages.count("console") == 5 and languages.count("diff") == 4
    assert sum("wrong  norm" in body for _, body in steps()) == 1
