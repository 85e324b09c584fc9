"""A process that reads JSON objects and answers with JSON objects, one a line.

The process leads a session of its own: ending it ends whatever it has started.  A library or a
kernel may kill it or let it hang; its caller learns what happened, and loses nothing else.

No Python that is started here imports from the current directory: a json.py that lies there would
run.  It gets `-P`, and `isolated` removes that directory from PYTHONPATH.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyroclast
import pyroclast_kernels
from pyroclast.errors import PyroclastError
from pyroclast.lab.speed.lines import Lines


class JsonProcess:
    """A running process.  OSError if the program cannot be started."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=isolated(environment),
                start_new_session=True,
            )
        except OSError:
            self._errors.close()
            raise
        assert self._process.stdin is not None and self._process.stdout is not None, "pipes"
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._lines = Lines(self._stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, message: Mapping[str, Any]) -> None:
        """Writes a message.  If the process has ended, the next `receive` says so."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()

    def receive(self, limit_s: float | None) -> Any:
        """The next message.  TimeoutError if none comes within limit_s (None: no limit), EOFError
        if the process has ended."""
        return json.loads(self._lines.next(None if limit_s is None else time.monotonic() + limit_s))

    def wait(self) -> tuple[str, list[str]]:
        """(How it ended, as in "died of SIGSEGV", and the lines it wrote to standard error)."""
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        if code < 0:
            return f"died of {signal.Signals(-code).name}", said
        return f"ended with exit code {code}", said

    def finish(self, limit_s: float) -> None:
        """Ends its input and lets it end by itself; kills it after limit_s."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s)
        self.stop()

    def stop(self) -> None:
        """Kills the process and all that it started."""
        end_group(self._process)
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(BrokenPipeError):  # for what the process never read
                pipe.close()
        self._errors.close()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process that leads a session, with all its children, and waits for its end."""
    with contextlib.suppress(ProcessLookupError):  # nothing of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def python_path() -> dict[str, str]:
    """The environment in which another process of this Python imports this very Pyroclast."""
    sources = [str(Path(str(each.__file__)).parents[1]) for each in (pyroclast, pyroclast_kernels)]
    return {"PYTHONPATH": os.pathsep.join([*sources, *_absolute(os.environ.get("PYTHONPATH", ""))])}


def inherited_path() -> dict[str, str]:
    """As `python_path`, with all that this process imports from, save the current directory:
    `python -m` and `python -c` put it in front."""
    given = python_path()["PYTHONPATH"].split(os.pathsep)
    here = str(Path.cwd())
    found = [entry for entry in sys.path if os.path.isabs(entry) and entry != here]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*given, *found]))}


def python_command(*arguments: str) -> list[str]:
    """The command that runs this very Python, without the current directory among its imports."""
    if not os.path.isabs(sys.executable or ""):
        raise PyroclastError(
            f"a child process needs this Python's path, and sys.executable is {sys.executable!r}; "
            "start Python by its absolute path"
        )
    return [sys.executable, "-P", *arguments]


def isolated(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: that of this process with these changes.  PYTHONPATH keeps only
    absolute entries, since an empty or relative one means the current directory."""
    whole = {**os.environ, **environment, "PYTHONSAFEPATH": "1"}
    if "PYTHONPATH" in whole:
        whole["PYTHONPATH"] = os.pathsep.join(_absolute(whole["PYTHONPATH"]))
    return whole


def _absolute(path: str) -> list[str]:
    return [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]
