"""Fresh processes that know Pyroclast already, to be ended in every way that a process can end.

A nursery is an interpreter that has imported everything and forks for each job.  So a job costs
milliseconds, and its end is the real end of an interpreter.  In the nursery:

    job = next_job()          # returns in the child only
    exec(job["code"])
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_MAIN = (
    "from torture.nursery import next_job\n"
    "job = next_job()\n"
    "exec(compile(job['code'], '<job>', 'exec'), {'__name__': '__main__', 'argv': job['argv']})\n"
)
_IMPORTS = (
    "pyroclast.llm",
    "pyroclast.model.model",
    "pyroclast.checkpoint.open",
    "pyroclast.cli.main",
    "torture.writers",
)
_POLL_S = 0.002


@dataclass
class Ended:
    """How a job ended: `code` as subprocess has it, None if it had to be killed."""

    code: int | None
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}, output {self.out[-300:]!r}, errors {self.err[-1500:]!r}"


class Nursery:
    """Starts jobs, one at a time."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nursery-"))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            text=True,
        )
        self.pid = 0

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(self, code: str, *argv: object) -> None:
        """Begins a job: `argv` is a list in its code."""
        job = {"code": code, "argv": [str(each) for each in argv], "folder": str(self._folder)}
        for stream in ("out", "err"):
            (self._folder / stream).write_text("")
        _stream(self._process.stdin).write(json.dumps(job) + "\n")
        _stream(self._process.stdin).flush()
        self.pid = int(_stream(self._process.stdout).readline())

    def said(self, text: str, seconds: float = 30.0, where: str = "out") -> bool:
        """Whether the job writes `text` to standard output, or to "err", before that time and its
        end."""
        end = time.monotonic() + seconds
        while text not in self.output(where):
            if time.monotonic() > end or self._has_ended(_POLL_S):
                return text in self.output(where)
        return True

    def output(self, where: str = "out") -> str:
        """What the job has written to standard output, or to "err"."""
        return (self._folder / where).read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """A signal to the job, which has not been waited for."""
        os.kill(self.pid, number)

    def end(self, seconds: float = 30.0) -> Ended:
        """Waits for the end of the job; kills it after that time."""
        killed = not self._has_ended(seconds)
        if killed:
            os.kill(self.pid, signal.SIGKILL)
        code = int(_stream(self._process.stdout).readline())
        out, err = ((self._folder / name).read_text(errors="replace") for name in ("out", "err"))
        return Ended(None if killed else code, out, err)

    def run(self, code: str, *argv: object, seconds: float = 30.0) -> Ended:
        """A job from its begin to its end."""
        self.start(code, *argv)
        return self.end(seconds)

    def _has_ended(self, seconds: float) -> bool:
        return bool(select.select([self._process.stdout], [], [], seconds)[0])


def next_job() -> Any:
    """In the nursery: forks for each job that comes and returns in the child."""
    for name in _IMPORTS:
        __import__(name)
    while line := sys.stdin.readline():
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _settle_in(Path(job["folder"]))
            return job
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
    sys.exit()


def _settle_in(folder: Path) -> None:
    """The child's own standard streams."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
