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

# So many in a row, with no step between them, end the thread.
_MAX_FAILURES = 8


class Pump:
    """`wake` after every request that was queued, or given up: it runs the steps that follow."""

    def __init__(self, loop: Loop) -> None:
        self._loop = weakref.ref(loop)
        self._hang_bell(loop)
        self._pid_of_thread: int | None = None
        self._idle = False
        # A finalizer that runs while a thread is being started may want another.
        self._lock = threading.RLock()

    def _hang_bell(self, loop: Loop) -> None:
        # Unlike an Event, it may be filled in a signal handler and in a finalizer.
        self._bell: SimpleQueue[None] = SimpleQueue()
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
        """In the child of a fork: the thread and whoever was starting it are not here.  The thread
        may have taken the bell's lock just before; nobody would ever give it back."""
        self._lock = threading.RLock()
        self._pid_of_thread = None
        self._idle = False
        self._finalizer.detach()
        if (loop := self._loop()) is not None:
            self._hang_bell(loop)

    def _start(self, pid: int) -> None:
        with self._lock:
            if self._pid_of_thread == pid:
                return
            # First: the thread may end, and take it back, at once; and a finalizer that wakes the
            # pump from in here has nothing to start.
            self._pid_of_thread = pid
            self._idle = False
            try:
                threading.Thread(target=self._work, name="pyroclast-pump", daemon=True).start()
            except BaseException as error:
                self._pid_of_thread = None
                if isinstance(error, RuntimeError):
                    raise KernelError(
                        f"the thread that runs the steps could not be started ({error}); "
                        "raise the limit on threads (ulimit -u, TasksMax) or on memory"
                    ) from error
                raise

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
        # Ctrl-C while a thread was being started leaves two: the other one sleeps.
        self._bell.put(None)
        # Who queued something a moment ago saw this thread, and that it was not idle or would hear.
        if loop is not None and loop.has_work():
            self.wake()
        return False

    def _work_through(self, loop: Loop) -> None:
        """Runs steps; whatever they raise, who waits hears of it."""
        failure: BaseException | None = None
        n_failures = 0
        while failure is not None or loop.has_work():
            try:
                if failure is None:
                    loop.run_for_all()
                    n_failures = 0
                else:
                    loop.fail_all(failure)
                    failure = None  # its traceback has this frame, and with it the model
            except BaseException as error:
                n_failures += 1
                if n_failures == _MAX_FAILURES:
                    raise
                failure = error
