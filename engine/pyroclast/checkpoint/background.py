"""Work that goes on in a thread of its own while the caller loads weights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Calls `work` at once, in a thread; result() is what it returns or raises.  Where no thread
    can be started, or in_thread is False, result() does the work."""

    def __init__(self, work: Callable[[], Result], name: str, *, in_thread: bool = True) -> None:
        self._work = work
        self._found: list[Result] = []
        self._error: BaseException | None = None
        # A daemon: a program that ends meanwhile need not wait.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            if in_thread:
                self._thread.start()
                return
        except RuntimeError:
            pass
        self._thread = threading.current_thread()

    def _run(self) -> None:
        try:
            self._found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised in result()
            self._error = error

    def result(self) -> Result:
        """Waits for the end of the work."""
        if self._thread is threading.current_thread():
            self._run()
        else:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found[0]
