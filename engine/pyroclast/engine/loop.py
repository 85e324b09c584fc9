"""Who runs the steps: whoever waits for a result runs the next one for everybody, under a lock.

So calls from several threads, and a stream that is half read while another call runs, share the
same steps, and nobody needs a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from time import perf_counter

from pyroclast.engine.request import Job, Work
from pyroclast.engine.stepper import Stepper
from pyroclast.errors import ClosedError

_MAX_HANDOVER_S = 0.005
_HANDOVER_POLL_S = 50e-6


class Loop:
    """Runs the generations of all jobs on one stepper, until `close`."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper
        self.closed = False
        self._lock = threading.Lock()
        self._waiting: set[int] = set()  # threads that want the lock
        # Filled by any thread without the lock; emptied under it, before a step.
        self._inbox: deque[Work] = deque()
        self._given_up: deque[Job] = deque()

    def run(self, job: Job) -> None:
        """Waits for its turn, then runs one step for everybody, unless `job` needs it no more.
        Raises what ended the job, if it did not end well."""
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
                if self.closed and job.open:
                    self.stepper.end(job, self._closed_error())
                elif job.open and not job.chunks and job.error is None:
                    self.stepper.step()
        finally:
            if waits:
                self._waiting.discard(waits)
        if self._waiting:
            self._hand_over()
        if job.error is not None and not job.chunks:
            raise job.error

    def submit(self, seqs: Iterable[Work]) -> None:
        """Queues sequences; they begin with the next step that somebody runs.  Never waits."""
        self.check_open()
        self._inbox.extend(seqs)

    def give_up(self, job: Job) -> None:
        """Ends the job's generations before the next step.  Never waits: safe in a finalizer."""
        if not job.open:
            return
        self._given_up.append(job)
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
            for job in {seq.job for seq in self.stepper.scheduler.sequences()}:
                self.stepper.end(job, self._closed_error())
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
