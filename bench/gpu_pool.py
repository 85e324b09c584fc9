"""Worker processes with a time limit for each request, which is what a GPU calls for: a kernel that
hangs or writes where it must not takes its whole process with it, and only that.

They speak the protocol of peers/protocol.py.  A worker is a process group of its own: ending it
ends what it has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.lines import Lines

_WORDS = 400  # of what a process said last


class WorkerError(Exception):
    """A request without an answer: the message says why.  alive: the worker can go on."""

    def __init__(self, message: str, alive: bool = False) -> None:
        super().__init__(message)
        self.alive = alive


class Worker:
    """A process that answers requests; started by the first, and again after its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = list(command), dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._lines: Lines | None = None  # of its answers

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, request: str, limit_s: float, **arguments: Any) -> Any:
        """The answer; WorkerError if there is none within limit_s, or the worker ended."""
        self.post(request, **arguments)
        return self.wait(limit_s)

    def post(self, request: str, **arguments: Any) -> None:
        """Asks, and leaves the answer to a later `wait`: answers come in the order of requests."""
        process = self._started()
        assert process.stdin is not None, "it was opened as a pipe"
        with contextlib.suppress(BrokenPipeError):  # it has ended: `wait` tells
            process.stdin.write(json.dumps({"do": request, **arguments}).encode() + b"\n")
            process.stdin.flush()

    def wait(self, limit_s: float) -> Any:
        """The next answer; as `ask`."""
        process = self._process
        assert process is not None and self._lines is not None, "something was asked"
        try:
            answer = json.loads(self._lines.next(time.monotonic() + limit_s))
        except TimeoutError:
            self.stop()
            raise WorkerError(f"no answer within {limit_s:.0f} s") from None
        except EOFError:
            raise WorkerError(self._obituary(process)) from None
        if "error" in answer:
            raise WorkerError(answer["error"], alive=True)
        return answer["ok"]

    def stop(self) -> None:
        """Ends the process and all that it started."""
        if self._process is not None:
            end_group(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):  # what it never read
                        pipe.close()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        self._lines = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **self._environment},
                start_new_session=True,
            )
            assert self._process.stdout is not None, "it was opened as a pipe"
            self._lines = Lines(self._process.stdout)
        return self._process

    def _obituary(self, process: subprocess.Popen[bytes]) -> str:
        """What it died of."""
        code = process.wait()
        said = last_words(self._errors)
        self.stop()
        if code < 0:
            return f"the process died of {signal.Signals(-code).name}: {said}"
        return f"the process ended with exit code {code}: {said}"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a session, with all its children; waits for its end."""
    with contextlib.suppress(ProcessLookupError):  # it has ended, and so has all of its group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_words(file: Any) -> str:
    """The end of what a process wrote."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return " | ".join(lines[-4:])[-_WORDS:] or "it said nothing"


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
            env={**os.environ, **environment},
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
