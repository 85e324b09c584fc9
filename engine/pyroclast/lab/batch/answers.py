"""The answers of a batch: a file that grows by whole requests, so that a run can be resumed.

All lines of a request are written at once.  What a killed run left is the answers of some requests
and, at the end, perhaps a part of one more, which is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pyroclast.errors import RequestError
from pyroclast.lab.batch.requests import MAX_LINE_BYTES

_LINE_BYTES = 4 * MAX_LINE_BYTES  # an answer repeats its prompt's ids, and may carry logprobs
_BEGINNING = b'{"id": "'  # of a line that `write` wrote, whole or not


class AnswerFile:
    """The file of answers, open for one run.  `done` are the ids that it holds already.

    n_lines: request id -> how many lines its answer has.  hashes: request id -> the hash of what it
    asks, which its lines keep: an id, above all one that is a line's number, may come to name
    another request.  Lines of older files have none.  RequestError if the file holds answers of
    other requests, or if another run is writing it."""

    def __init__(self, path: Path, n_lines: Mapping[str, int], hashes: Mapping[str, str]) -> None:
        self.path, self._hashes = path, hashes
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        except OSError as error:
            raise RequestError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            self._lock()
            self.done, end = self._read(n_lines)
            self._file.truncate(end)
            self._file.seek(end)
        except BaseException:
            self._file.close()
            raise

    def write(self, lines: list[dict[str, Any]]) -> None:
        """Appends all lines of one request."""
        text = "".join(
            json.dumps({**line, "request_hash": self._hashes[line["id"]]}) + "\n" for line in lines
        )
        self._file.write(text.encode("utf-8"))
        self._file.flush()

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _lock(self) -> None:
        if not os.path.isfile(self.path):
            raise RequestError(f"{self.path}: not a regular file; a run could not be resumed")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(f"{self.path}: another run is writing it") from error
        except OSError:
            pass  # a file system without locks

    def _read(self, n_lines: Mapping[str, int]) -> tuple[set[str], int]:
        """(ids whose answers are whole, where they end)."""
        done: set[str] = set()
        end, where, number = 0, 0, 0
        current, n_seen = "", 0
        while data := self._file.readline(_LINE_BYTES):
            where += len(data)
            number += 1
            if not data.endswith(b"\n"):
                if not data.startswith(_BEGINNING[: len(data)]):
                    raise RequestError(
                        f"{self.path}, line {number}: not a line of answers; choose another file"
                    )
                if self._has_another_line():
                    raise RequestError(
                        f"{self.path}, line {number}: longer than {_LINE_BYTES} bytes; choose "
                        "another file"
                    )
                break
            name, failed = self._head(data, number, n_lines)
            if name in done:
                raise RequestError(f"{self.path}, line {number}: a second answer to {name!r}")
            if name != current and n_seen:
                raise RequestError(
                    f"{self.path}, line {number}: the answer to {current!r} before it lacks lines; "
                    "remove them, or choose another file"
                )
            current, n_seen = name, n_seen + 1
            if failed or n_seen == n_lines[name]:
                done.add(name)
                current, n_seen, end = "", 0, where
        return done, end

    def _has_another_line(self) -> bool:
        """Whether what was read without a newline ends before the file does: it is no answer that
        a killed run left half written, and what follows must not be cut off with it."""
        while data := self._file.readline(_LINE_BYTES):
            if data.endswith(b"\n"):
                return True
        return False

    def _head(self, data: bytes, number: int, n_lines: Mapping[str, int]) -> tuple[str, bool]:
        """(the request that a line answers, whether it tells of an error)."""
        where = f"{self.path}, line {number}"
        try:
            value = json.loads(data)
            name, failed = value["id"], "error" in value
            made_for = value.get("request_hash")
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise RequestError(f"{where}: not a line of answers; choose another file") from error
        if not isinstance(name, str) or name not in n_lines:
            raise RequestError(
                f"{where}: answers {str(name)[:80]!r}, which is not among the requests; choose "
                "another file"
            )
        if made_for is not None and made_for != self._hashes[name]:
            raise RequestError(
                f"{where}: answers another request {name!r:.80}: what it asks, its parameters, the "
                "model or the adapter were not those of now; choose another file, or remove the "
                "line to ask again"
            )
        return name, failed
