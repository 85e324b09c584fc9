"""Runs what recurses deeply and may take long, in a thread of its own: with a stack that is large
enough, and a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pyroclast.errors import QueueFullError

T = TypeVar("T")

# llguidance recurses once for each rule that refers to the next, with up to 16 KiB a level: a text
# of 512 Ki characters holds 20,000 levels.  Memory is taken only as it is used.
_STACK_BYTES = 512 << 20
_MAX_RUNNING = 4  # what is past its deadline still runs until it ends by itself
_places = threading.BoundedSemaphore(_MAX_RUNNING)
_starting = threading.Lock()  # the stack's size is a setting of the whole process


class DeadlineError(Exception):
    """The work did not end in time."""


def run_deep(work: Callable[[], T], deadline_s: float) -> T:
    """The result of work, or its exception; DeadlineError if it takes longer.  QueueFullError
    where too much of this kind still runs."""
    if not _places.acquire(timeout=deadline_s):
        raise QueueFullError(
            f"{_MAX_RUNNING} grammars are being compiled, and took longer than {deadline_s:g} "
            "seconds; try again later"
        )
    task = _Task(work)
    with _starting:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=task.run, name="pyroclast-grammar", daemon=True)
            thread.start()
        except BaseException:
            _places.release()
            raise
        finally:
            threading.stack_size(before)
    thread.join(deadline_s)
    if thread.is_alive():
        raise DeadlineError
    return task.result()


class _Task(Generic[T]):
    """The work, and what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._found: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """In the thread."""
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error
        finally:
            _places.release()

    def result(self) -> T:
        """After the end."""
        if self._error is not None:
            raise self._error
        return self._found[0]
