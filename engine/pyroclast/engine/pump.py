"""The thread that runs steps where nobody waits in a thread of their own: for coroutines.

It starts with the first request, sleeps while there is nothing to do, and ends when its loop is
closed or dropped.  It is a daemon: a program that ends does not wait for it.
"""

from __future__ import annotations

import os
import threading
import weakref
from queue import SimpleQueue

from pyroclast.engine.loop import Loop
from pyroclast.errors import KernelError

# One after another, with nothing done in between.
_MAX_FAILURES = 8


class Pump:
    """`wake` after every request that was queued, or given up: it runs the steps that follow."""

    def __init__(self, loop: Loop) -> None:
        self._loop = weakref.ref(loop)
        # Unlike an Event, it may be filled in a signal handler and in a finalizer.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._pid_of_thread: int | None = None
        self._idle = False
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(loop, self._bell.put, None)
        self._finalizer.atexit = False

    def wake(self) -> None:
        """Sees to it that the thread runs, if there is work, and that it looks for it.  Never waits
        for a step."""
        if self._pid_of_thread != os.getpid():  # never started, or left in the parent of a fork
            loop = self._loop()
            if loop is not None and loop.has_work():
                self._start(os.getpid())
        if self._idle:
            self._bell.put(None)

    def renew(self) -> None:
        """In the child of a fork: the thread and whoever was starting it are not here."""
        self._lock = threading.Lock()
        self._pid_of_thread = None

    def _start(self, pid: int) -> None:
        with self._lock:
            if self._pid_of_thread == pid:
                return
            self._idle = False
            thread = threading.Thread(target=self._work, name="pyroclast-pump", daemon=True)
            self._pid_of_thread = pid  # first: the thread may end, and take it back, at once
            try:
                thread.start()
            except RuntimeError as error:
                self._pid_of_thread = None
                raise KernelError(
                    f"the thread that runs the steps could not be started ({error}); "
                    "raise the limit on threads (ulimit -u, TasksMax) or on memory"
                ) from error

    def _work(self) -> None:
        try:
            while self._run_steps():
                self._bell.get()
        except BaseException as error:
            # The next one to wake it starts another thread; who waits now is told.
            self._pid_of_thread = None
            loop = self._loop()
            if loop is not None:
                loop.fail_all(error)
            raise

    def _run_steps(self) -> bool:
        """Runs steps until there is nothing to do; False when the loop is gone or closed."""
        loop = self._loop()
        while loop is not None:
            self._idle = False
            self._work_through(loop)
            # Who queues something or closes the loop from here on rings the bell.
            self._idle = True
            if loop.has_work():
                continue
            if not loop.closed:
                return True
            break
        self._pid_of_thread = None
        return False

    def _work_through(self, loop: Loop) -> None:
        """Runs steps; whatever they raise, who waits hears of it."""
        failure: BaseException | None = None
        for _ in range(_MAX_FAILURES):
            try:
                if failure is not None:
                    loop.fail_all(failure)
                    failure = None
                while loop.has_work():
                    loop.run_for_all()
            except BaseException as error:  # noqa: BLE001 - it is passed on
                failure = error
            else:
                return
