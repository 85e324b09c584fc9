"""A progress bar and what is printed beside it, on one terminal."""

from __future__ import annotations

import io
import sys

import pytest

from pyroclast.cli.terminal import tell, write
from pyroclast.progress import progress_bar


class Terminal(io.StringIO):
    """Keeps what is written to it; stdout and stderr both."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stands on the screen: after a carriage return, characters are written over."""
        screen = []
        for line in self.getvalue().split("\n"):
            shown: list[str] = []
            for run in line.split("\r"):
                shown[: len(run)] = run
            screen.append("".join(shown).rstrip())
        return screen


def test_rows_stand_on_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("pyroclast.progress._DELAY_S", 0)
    with progress_bar(3, "run", wanted=True) as show:
        for i in range(3):
            show(i + 1)
            write(f"| row {i} |")
    assert "run" in terminal.getvalue(), "there was a bar"
    assert terminal.lines() == ["| row 0 |", "| row 1 |", "| row 2 |", ""]


def test_what_takes_a_while_is_told_at_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, told in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        tell("half a minute")
        assert ("half a minute" in stream.getvalue()) == told
