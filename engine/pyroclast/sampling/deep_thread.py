"""Runs what recurses deeply and may take long, in a thread of its own: with a stack that is large
enough, and a deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pyroclast.errors import KernelError, QueueFullError

T = TypeVar("T")

# llguidance recurses once for each rule that refers to the next, with up to 16 KiB a level: a text
# of 512 Ki characters holds 20,000 levels.  Memory is taken only as it is used.
_STACK_BYTES = 512 << 20
_MAX_RUNNING = 4  # what is past its deadline still runs until it ends by itself
# For a place: most grammars take milliseconds.  Whoever waited for slow ones would keep a thread
# that others need.
_MAX_WAIT_S = 0.1
_places = threading.BoundedSemaphore(_MAX_RUNNING)
_starting = threading.Lock()  # the stack's size is a setting of the whole process,
_usual_bytes = 0  # which is this while no thread is being started


class DeadlineError(Exception):
    """The work did not end in time."""


class DeepTask(Generic[T]):
    """Work for one thread, and what came of it.  Any number of threads may wait for the result."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._begin_s = time.monotonic()
        self._place: list[threading.BoundedSemaphore] = []  # until it is given back
        self._done = threading.Event()
        self._found: list[T] = []
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begins the work.  QueueFullError where too much of this kind still runs; it is also told
        to those who wait."""
        try:
            self._place.append(_take_place())
            _start_thread(self._run)
        except Exception as error:
            self._end(error)
            raise
        except BaseException:
            self._end(KernelError("the thread that compiles the grammar was interrupted"))
            raise

    def result(self, deadline_s: float) -> T:
        """What the work returned, or raised; DeadlineError if it takes longer, from its beginning
        on."""
        if not self._done.wait(max(0.0, self._begin_s + deadline_s - time.monotonic())):
            raise DeadlineError
        if self._error is not None:
            raise self._error
        return self._found[0]

    def _run(self) -> None:
        """In the thread."""
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """Twice where Ctrl-C came when the thread had just begun."""
        if error is not None:
            self._error = error
        while self._place:
            self._place.pop().release()
        self._done.set()


def _take_place() -> threading.BoundedSemaphore:
    if not _places.acquire(timeout=_MAX_WAIT_S):
        raise QueueFullError(f"{_MAX_RUNNING} other grammars are being compiled; try again later")
    return _places


def _start_thread(run: Callable[[], None]) -> None:
    global _usual_bytes  # noqa: PLW0603 - as the setting itself
    with _starting:
        _usual_bytes = threading.stack_size()
        try:
            threading.stack_size(_STACK_BYTES)
            threading.Thread(target=run, name="pyroclast-grammar", daemon=True).start()
        except RuntimeError as error:
            raise KernelError(
                f"the thread that compiles a grammar could not be started ({error}); "
                "raise the limit on threads (ulimit -u, TasksMax) or on memory"
            ) from error
        finally:
            threading.stack_size(_usual_bytes)


def _renew() -> None:
    """In the child of a fork: the threads that run, or were starting one, are not here."""
    global _places, _starting  # noqa: PLW0603
    if _starting.locked():
        threading.stack_size(_usual_bytes)
    _places = threading.BoundedSemaphore(_MAX_RUNNING)
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_renew)
