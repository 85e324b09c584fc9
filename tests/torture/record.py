"""What a child process of the campaign tells its parent: cases counted, the one that runs now, and
findings.  The parent reads it even after the child was killed."""

from __future__ import annotations

import base64
import json
import mmap
import struct
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pyroclast.errors import PyroclastError

_HEADER = struct.Struct("<QQQddQ")  # cases, refused, running (0: none), wall, CPU, input bytes
_MAX_INPUT_BYTES = 8 << 20
MAX_PER_CHILD = 20  # findings of one child; a fault that every case meets would fill the disk


@dataclass(frozen=True)
class Finding:
    """One fault: `seed` and the number of the case find it again, and so does its input."""

    kind: str
    seed: int
    case: int
    what: str
    detail: str = ""
    input: str = ""  # base64

    @property
    def payload(self) -> bytes:
        return base64.b64decode(self.input)

    @property
    def signature(self) -> tuple[str, str]:
        """Equal for two findings that are most likely the same fault: the same line raised it, or
        the process was there when it died."""
        frames = [line.strip() for line in self.detail.splitlines() if line.startswith("  File")]
        innermost = 0 if "most recent call first" in self.detail else -1
        return self.kind, frames[innermost] if frames else self.what

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.kind}-{self.seed}-{self.case}.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Finding:
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class EnoughError(BaseException):
    """Ends a run whose last wanted case is over."""


class Record:
    """Counts the cases of one kind in one child, and keeps what went wrong.

    found: a file that gets one line of JSON for each finding.  stop_after: the run ends after so
    many cases (to find a case again by its seed)."""

    def __init__(self, kind: str, seed: int, found: Path, stop_after: int | None = None) -> None:
        self.kind, self.seed = kind, seed
        self._found, self._stop_after = found, stop_after
        self._memory = mmap.mmap(-1, _HEADER.size + _MAX_INPUT_BYTES)
        self._signatures: set[tuple[str, str]] = set()
        self._n_cases = self._n_refused = 0
        self._input = b""

    @contextmanager
    def case(self, payload: bytes = b"") -> Iterator[None]:
        """One case: it may work or raise a PyroclastError; anything else is a finding, and so is
        the end of the process within it.  payload: the input that the replay of its kind takes."""
        self._n_cases += 1
        self._input = payload[:_MAX_INPUT_BYTES]
        self._memory[_HEADER.size : _HEADER.size + len(self._input)] = self._input
        self._write(self._n_cases)
        try:
            yield
        except PyroclastError:
            self._n_refused += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - the panics of Rust are BaseExceptions
            what = f"{type(error).__name__}: {str(error)[:300]}"
            self.finding(what, "".join(traceback.format_exception(error))[-8000:])
        self._write(0)
        if self._n_cases == self._stop_after:
            raise EnoughError

    def finding(self, what: str, detail: str = "") -> None:
        """Something wrong in this case that is not an exception, such as a wrong answer."""
        finding = self._as_finding(what, detail)
        if finding.signature not in self._signatures and len(self._signatures) < MAX_PER_CHILD:
            self._signatures.add(finding.signature)
            with self._found.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(finding)) + "\n")

    def _as_finding(self, what: str, detail: str) -> Finding:
        return Finding(
            self.kind,
            self.seed,
            self._n_cases,
            what,
            detail,
            base64.b64encode(self._input).decode(),
        )

    def _write(self, running: int) -> None:
        numbers = (self._n_cases, self._n_refused, running, time.monotonic(), time.process_time())
        # In one piece: pack_into() zeroes its place first, and the parent would read a clock of 0.
        self._memory[: _HEADER.size] = _HEADER.pack(*numbers, len(self._input))

    # ---- the parent's side ----

    def counts(self) -> tuple[int, int]:
        """Cases so far, and those of them that were refused with a PyroclastError."""
        n_cases, n_refused, *_ = _HEADER.unpack_from(self._memory)
        return n_cases, n_refused

    def running(self) -> tuple[int, float, float]:
        """The case that runs (0: none), and the clock and the child's CPU time when it began."""
        _, _, running, wall, cpu, _ = _HEADER.unpack_from(self._memory)
        return running, wall, cpu

    def died(self, what: str, detail: str) -> Finding:
        """The finding that the child's end is, with the input of its last case."""
        self._n_cases, *_, n_bytes = _HEADER.unpack_from(self._memory)
        self._input = self._memory[_HEADER.size : _HEADER.size + n_bytes]
        return self._as_finding(what, detail)

    def findings(self) -> list[Finding]:
        if not self._found.exists():
            return []
        lines = self._found.read_text(encoding="utf-8").splitlines()
        return [Finding(**json.loads(line)) for line in lines]
