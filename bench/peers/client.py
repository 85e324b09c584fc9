"""The side of bench/engine.py of a conversation with a worker, and how much CPU time it takes."""

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

_QUIT_S = 30
_STDERR_LINES = 5


class PeerError(Exception):
    """A worker cannot be started, has ended, or could not do what it was asked to."""


class Client:
    """A worker process in another Python; use as a context manager."""

    def __init__(self, python: str | Path, script: Path, environment: dict[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        try:
            self._process = subprocess.Popen(
                [str(python), str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **environment},
                text=True,
            )
        except OSError as error:
            self._stderr.close()
            raise PeerError(f"{python}: {error.strerror}") from error

    def ask(self, request: str, **arguments: Any) -> Any:
        """The worker's answer; waits for it as long as it takes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: told below
            self._process.stdin.write(json.dumps({"do": request, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["ok"]

    def cpu_s(self) -> float:
        """Seconds of CPU time that all its threads have used."""
        nanoseconds = 0
        for path in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
                nanoseconds += int(path.read_text().split()[0])
        return nanoseconds / 1e9

    def peak_bytes(self) -> int:
        """The most memory that it has had, as the kernel counts it."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise PeerError("this system does not tell the peak memory of a process")

    def _last_words(self) -> str:
        code = self._process.wait(_QUIT_S)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        said = " | ".join(lines[-_STDERR_LINES:]) or "nothing"
        return f"the worker ended with exit code {code}; its last words: {said}"

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            # After an error, or Ctrl-C, nobody waits for a run that may take minutes.
            self._process.wait(_QUIT_S if kind is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()
