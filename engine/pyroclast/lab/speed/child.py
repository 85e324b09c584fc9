"""Runs kernels in a child process that may crash or hang.

The process starts with the first job, and again after it died or was stopped.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from pyroclast.lab.speed.process import JsonProcess, inherited_path, python_command

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
        self._process: JsonProcess | None = None

    def ask(self, job: dict[str, Any], timeout_s: float) -> Any:
        """The job's answer.  ChildError if it raised, died, or took longer than timeout_s."""
        process = self._started()
        at = ""
        end = time.monotonic() + timeout_s
        try:
            process.send(job)
            while True:
                answer = process.receive(end - time.monotonic())
                if "at" not in answer:
                    break
                at = answer["at"]
        except TimeoutError:
            self.stop()
            raise ChildError("hung", f"no answer within {timeout_s:g} s", at) from None
        except EOFError:
            raise ChildError("crashed", self._obituary(process), at) from None
        if "failed" in answer:
            raise ChildError("crashed", answer["failed"], at)
        return answer["done"]

    def stop(self) -> None:
        """Kills the process; the next job starts another."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def _started(self) -> JsonProcess:
        if self._process is None:
            threads = dict.fromkeys(_THREAD_VARIABLES, str(self._n_threads))
            command = python_command("-m", "pyroclast.lab.speed.worker", str(self._n_threads))
            environment = {**threads, **inherited_path(), "PYTHONUNBUFFERED": "1"}
            self._process = JsonProcess(command, environment)
        return self._process

    def _obituary(self, process: JsonProcess) -> str:
        """Why the process died.  After a signal its last output is a dump, which is left out."""
        cause, said = process.wait()
        self.stop()
        last = f": {said[-1]}" if said and not cause.startswith("died") else ""
        return f"the process {cause}{last}"

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()
