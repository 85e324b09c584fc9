"""Reads the output of a process line by line, with a deadline for each line."""

from __future__ import annotations

import os
import select
import time
from typing import IO


class Lines:
    """The lines of a pipe, which nothing else may read."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._unread = pipe, b""

    def next(self, end: float | None) -> bytes:
        """The next line, without its end.  TimeoutError after `end` (of time.monotonic; None waits
        as long as it takes), EOFError if no more lines come."""
        while b"\n" not in self._unread:
            left = None if end is None else max(0.0, end - time.monotonic())
            if left == 0 or not select.select([self._pipe], [], [], left)[0]:
                raise TimeoutError
            more = os.read(self._pipe.fileno(), 1 << 16)
            if not more:
                raise EOFError
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line
