"""Runs kernels in a child process that may crash or hang.

The process starts with the first job, and again after it died or was stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroclast.lab.speed.lines import Lines

# A library that NumPy calls must use as many threads as the kernels it is compared with.
_THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip


class ChildError(Exception):
    """A job without an answer.  kind: "crashed" or "hung"; at: what was being tried."""

    def __init__(self, kind: str, message: str, at: str = "") -> None:
        super().__init__(message)
        self.kind, self.at = kind, at


class Child:
    """A worker with n_threads threads; a context manager."""

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None  # the standard error of the child
        self._lines: Lines | None = None  # of its answers

    def ask(self, job: dict[str, Any], timeout_s: float) -> Any:
        """The job's answer.  ChildError if it raised, died, or took longer than timeout_s."""
        process = self._started()
        assert process.stdin is not None and self._lines is not None, "both are pipes"
        at = ""
        end = time.monotonic() + timeout_s
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            while True:
                answer = json.loads(self._lines.next(end))
                if "at" not in answer:
                    break
                at = answer["at"]
        except TimeoutError:
            self.stop()
            raise ChildError("hung", f"no answer within {timeout_s:g} s", at) from None
        except (BrokenPipeError, EOFError):
            raise ChildError("crashed", self._obituary(process), at) from None
        if "failed" in answer:
            raise ChildError("crashed", answer["failed"], at)
        return answer["done"]

    def stop(self) -> None:
        """Kills the process; the next job starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        self._lines = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        threads = dict.fromkeys(_THREAD_VARIABLES, str(self._n_threads))
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        command = [sys.executable, "-m", "pyroclast.lab.speed.worker", str(self._n_threads)]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **threads, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None, "it was opened as a pipe"
        self._lines = Lines(self._process.stdout)
        return self._process

    def _obituary(self, process: subprocess.Popen[bytes]) -> str:
        """Why the process died."""
        code = process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        self.stop()
        if code < 0:
            return f"the process died of {signal.Signals(-code).name}"
        last = f": {said[-1]}" if said else ""
        return f"the process ended with exit code {code}{last}"

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()
