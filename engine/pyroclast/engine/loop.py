"""Who runs the steps: whoever waits for a result runs the next one for everybody, under a lock.

So calls from several threads, and a stream that is half read while another call runs, share the
same steps, and nobody needs a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from time import perf_counter

from pyroclast.engine.call import Call
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.stepper import Stepper
from pyroclast.errors import ClosedError
from pyroclast.progress import progress_bar

_MAX_HANDOVER_S = 0.005
_HANDOVER_POLL_S = 50e-6


class Loop:
    """Runs the requests of all calls on one stepper, until `close`."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper
        self.closed = False
        self._lock = threading.Lock()
        self._waiting: set[int] = set()  # threads that want the lock
        # Filled by any thread without the lock; emptied under it, before a step.
        self._inbox: deque[ReadRequest] = deque()
        self._given_up: deque[Call] = deque()

    def run(self, call: Call) -> None:
        """Waits for its turn, then runs one step for everybody, unless `call` needs it no more.
        Raises what ended the call, if it did not end well."""
        # Only a thread that meets another one says that it waits; see _hand_over.
        waits = threading.get_ident() if self._lock.locked() else 0
        if waits:
            self._waiting.add(waits)
        try:
            with self._lock:
                if waits:
                    self._waiting.discard(waits)
                if self._inbox or self._given_up:
                    self._clean_up()
                if self.closed and call.open:
                    self.stepper.end(call, self._closed_error())
                elif call.open and not call.chunks and call.error is None:
                    self.stepper.step()
        finally:
            if waits:
                self._waiting.discard(waits)
        if self._waiting:
            self._hand_over()
        if call.error is not None and not call.chunks:
            raise call.error

    def complete(self, call: Call, requests: Sequence[ReadRequest], progress: bool | None) -> None:
        """Runs steps until every request of the call has ended.  An exception ends those that have
        not."""
        n_all = len(requests)
        try:
            self.submit(requests)
            with progress_bar(n_all, "prompt", progress) as show:
                while call.open:
                    self.run(call)
                    show(n_all - len(call.open))
        except BaseException:
            self.give_up(call)
            raise

    def submit(self, requests: Iterable[ReadRequest]) -> None:
        """Queues requests; they begin with the next step that somebody runs.  Never waits."""
        self.check_open()
        self._inbox.extend(requests)

    def give_up(self, call: Call) -> None:
        """Ends the call's requests before the next step.  Never waits: safe in a finalizer."""
        if not call.open:
            return
        self._given_up.append(call)
        # While the lock is held a step is being run, and the next one begins with the clean-up.
        if self._lock.acquire(blocking=False):
            try:
                self._clean_up()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Ends everything and frees the model; a second call does nothing."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._clean_up()
            for call in {request.call for request in self.stepper.scheduler.requests()}:
                self.stepper.end(call, self._closed_error())
            self.stepper.model.close()

    def check_open(self) -> None:
        if self.closed:
            raise self._closed_error()

    @staticmethod
    def _closed_error() -> ClosedError:
        return ClosedError("this LLM was closed; make a new one with LLM(...)")

    def _clean_up(self) -> None:
        while self._inbox:
            self.stepper.add(self._inbox.popleft())
        while self._given_up:
            self.stepper.end(self._given_up.popleft())

    def _hand_over(self) -> None:
        """Lets one of the waiting threads have the lock.

        The thread that releases a lock can take it again at once: without this, a long `generate`
        would keep the finished chunks of another thread's stream waiting until its end."""
        deadline = perf_counter() + _MAX_HANDOVER_S
        while self._waiting and not self._lock.locked() and perf_counter() < deadline:
            time.sleep(_HANDOVER_POLL_S)
