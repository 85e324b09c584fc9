"""Worker processes with a time limit for each request.

A kernel that hangs, or writes where it must not, takes its whole process with it, and only that.
Workers speak the protocol of `pyroclast.lab.peers.workers.protocol`.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.process import JsonProcess, end_group, isolated

_LINES, _WORDS = 4, 400  # the end of what a process wrote


class WorkerError(Exception):
    """A request without an answer; the message says why.  alive: the worker can go on."""

    def __init__(self, message: str, alive: bool = False) -> None:
        super().__init__(message)
        self.alive = alive


class Worker:
    """A process that answers requests; started by the first, and again after its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._process: JsonProcess | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def ask(self, request: str, limit_s: float, **arguments: Any) -> Any:
        """The answer; WorkerError if there is none within limit_s, or the worker ended."""
        self.post(request, **arguments)
        return self.wait(limit_s)

    def post(self, request: str, **arguments: Any) -> None:
        """Asks, and leaves the answer to a later `wait`: answers come in the order of requests."""
        if self._process is None:
            self._process = JsonProcess(self._command, self._environment)
        self._process.send({"do": request, **arguments})

    def wait(self, limit_s: float) -> Any:
        """The next answer, as for `ask`."""
        assert self._process is not None, "something was asked"
        try:
            answer = self._process.receive(limit_s)
        except TimeoutError:
            self.stop()
            raise WorkerError(f"no answer within {limit_s:.0f} s") from None
        except EOFError:
            cause, said = self._process.wait()
            self.stop()
            words = " | ".join(said[-_LINES:])[-_WORDS:] or "it said nothing"
            raise WorkerError(f"the process {cause}: {words}") from None
        if "error" in answer:
            raise WorkerError(answer["error"], alive=True)
        return answer["ok"]

    def stop(self) -> None:
        """Ends the process and all that it started."""
        if self._process is not None:
            self._process.stop()
            self._process = None


def run(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path, limit_s: float
) -> tuple[int | None, str]:
    """(exit code, output) of a command; the code is None if it was stopped after limit_s."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=isolated(environment),
            cwd=cwd,
            start_new_session=True,
        )
        code: int | None = None
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit_s)
        finally:
            end_group(process)
        output.seek(0)
        return code, output.read().decode(errors="replace")
