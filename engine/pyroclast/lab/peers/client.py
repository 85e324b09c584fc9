"""Client for a benchmark worker process, which runs an engine in a Python of its own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroclast.errors import PyroclastError
from pyroclast.lab.speed.process import JsonProcess

WORKERS = Path(__file__).parent / "workers"
_QUIT_S = 30
_STDERR_LINES = 5


class PeerError(PyroclastError):
    """A worker cannot be started, has ended, or could not do what it was asked to."""


class Client:
    """A running worker; use as a context manager."""

    def __init__(self, python: str | Path, script: Path, environment: dict[str, str]) -> None:
        # Workers import their neighbours; a safe path leaves a script's folder out.
        given = environment.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        path = os.pathsep.join([str(script.parent), given])
        try:
            self._process = JsonProcess(
                [str(python), str(script)], {**environment, "PYTHONPATH": path}
            )
        except OSError as error:
            raise PeerError(f"{python}: {error.strerror}") from error

    def ask(self, request: str, **arguments: Any) -> Any:
        """The worker's answer; waits for it as long as it takes."""
        self._process.send({"do": request, **arguments})
        try:
            answer = self._process.receive(None)
        except EOFError:
            cause, said = self._process.wait()
            words = " | ".join(said[-_STDERR_LINES:]) or "nothing"
            raise PeerError(f"the worker {cause}; its last words: {words}") from None
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["ok"]

    def cpu_s(self) -> float:
        """Seconds of CPU time that all its threads have used."""
        nanoseconds = 0
        for path in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                nanoseconds += int(path.read_text().split()[0])
        return nanoseconds / 1e9

    def peak_bytes(self) -> int:
        """The most memory that it has held at once, as the kernel counts it."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise PeerError("this system does not report the peak memory of a process")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        # After an error, or Ctrl-C, nobody waits for a run that may take minutes.
        self._process.finish(_QUIT_S if kind is None else 0)
