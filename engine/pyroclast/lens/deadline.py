"""Until when a comparison may take, and how somebody else ends it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from pyroclast.errors import PyroclastError, RequestError

if TYPE_CHECKING:
    from pyroclast.engine.call import Call
    from pyroclast.engine.loop import Loop


class Deadline:
    """Of one piece of work: timeout_s seconds from its `begin`; None: as long as it takes.  `stop`
    ends it at once, from any thread."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self._timeout_s, self._until_s = timeout_s, math.inf
        self._lock = threading.Lock()
        self._running: tuple[Loop, Call] | None = None
        self._is_stopped = False

    def begin(self) -> None:
        """The time runs from now on.  PyroclastError after `stop`."""
        if self._timeout_s is not None:
            self._until_s = perf_counter() + self._timeout_s
        self.check()

    def stop(self) -> None:
        """Ends the work before its next step: whoever does it meets a PyroclastError.  Harmless
        when repeated, and after the end."""
        with self._lock:
            self._is_stopped = True
            if self._running is not None:
                loop, call = self._running
                loop.give_up(call, self._stopped())

    def check(self) -> None:
        """RequestError after the deadline, PyroclastError after `stop`."""
        if self._is_stopped:
            raise self._stopped()
        if perf_counter() > self._until_s:
            raise self._late()

    @contextmanager
    def ends(self, loop: Loop, call: Call) -> Iterator[None]:
        """While the block runs: a call that is not finished by then ends between two steps, with
        the error of `check`."""
        with self._lock:
            self.check()
            self._running = loop, call
        timer = None
        if self._timeout_s is not None:
            left_s = max(0.0, self._until_s - perf_counter())
            timer = threading.Timer(left_s, loop.give_up, (call, self._late()))
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            with self._lock:
                self._running = None
            if timer is not None:
                timer.cancel()
        self.check()

    def _late(self) -> RequestError:
        return RequestError(
            f"the comparison took longer than {self._timeout_s:g} s; ask for fewer tokens, a "
            "shorter context, or kernels that are faster"
        )

    def _stopped(self) -> PyroclastError:
        return PyroclastError("the comparison was stopped")
