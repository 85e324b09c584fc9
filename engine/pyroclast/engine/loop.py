"""Who runs the steps: whoever waits for a result runs the next one for everybody, under a lock.

So calls from several threads, and a stream that is half read while another call runs, share the
same steps, and nobody needs a thread of its own.  Coroutines cannot run steps: for them there is
`pump.Pump`, one more thread that does.

The lock belongs to a thread and can be taken twice by it.  So a signal handler, a finalizer or a
callable of the user's that runs in the middle of a step never waits for its own thread: what can
be left to the next step is left to it, and what cannot is an error.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from time import perf_counter

from pyroclast.engine.call import Call
from pyroclast.engine.process import watch
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.stepper import Stepper
from pyroclast.engine.turn_lock import turn_lock
from pyroclast.engine.wake import Runner, wake
from pyroclast.errors import ClosedError, PyroclastError, ReentryError
from pyroclast.progress import progress_bar

_MAX_HANDOVER_S = 0.005
_HANDOVER_POLL_S = 50e-6
Aside = Callable[[], object]
_REENTRY = (
    "this model is in the middle of a step that this very thread runs, so it cannot wait for "
    "another one: a logits processor, a signal handler or a finalizer has to use another LLM, "
    "or leave the call to another thread that nobody waits for"
)


class Loop:
    """Runs the requests of all calls on one stepper, until `close`."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper
        self.closed = False
        self.pump: Runner | None = None
        # Filled under the lock, by the calls that coroutines wait for; see `Call.note`.
        self.noted: list[Call] = []
        self._lock, self._owns_lock = turn_lock()
        # The thread that runs a step, for those that decide whether to wait; 0 if none does.  After
        # an interruption it may be wrong until the next step.
        self._busy = 0
        self._holds: list[bool] = []  # each `hold` of now: whether it came outside of a step
        self._freed = False  # the model is closed as well
        self._waiting: set[int] = set()  # threads that want the lock
        # Filled by any thread without the lock; emptied under it, before a step.
        self._inbox: deque[ReadRequest] = deque()
        self._why_closed = "this LLM was closed; make a new one with LLM(...)"
        self._resumed: deque[Call] = deque()
        self._given_up: deque[tuple[Call, Exception | None]] = deque()
        watch(self)

    def run(self, call: Call) -> None:
        """Waits for its turn, then runs one step for everybody, unless `call` needs it no more.
        Raises what ended the call, if it did not end well."""
        self._turn(call)
        if not call.chunks:
            call.raise_error()

    def run_for_all(self, aside: Aside | None = None, *, steps: bool = True) -> None:
        """Waits for its turn, then runs one step, if steps, and then `aside`; see `inspection`."""
        self._turn(None, aside, steps)

    def _turn(self, call: Call | None, aside: Aside | None = None, steps: bool = True) -> None:
        if self._owns_lock():  # rarely: a call that asks would cost microseconds
            self.check_reentry()
        # Only a thread that meets another one says that it waits; see _hand_over.
        waits = get_ident() if self._busy else 0
        try:
            if waits:
                self._waiting.add(waits)
            with self._lock:
                try:
                    self._busy = get_ident()
                    if waits:
                        self._waiting.discard(waits)
                    if steps:
                        self._step(call)
                    if aside is not None:
                        aside()
                finally:
                    self._busy = 0
                    if self.noted:
                        self._wake()
        finally:
            if waits:
                self._waiting.discard(waits)
        if self._waiting:
            self._hand_over()

    def _step(self, call: Call | None) -> None:
        if not self.closed:
            if self._inbox or self._given_up or self._resumed:
                self._clean_up()
            if self.stepper.has_work() if call is None else not call.has_news:
                self.stepper.step()
        if self.closed:  # before the step, or in the middle of it
            self._free()
            if call is not None and call.open:
                self.stepper.end(call, self.closed_error())

    def complete(self, call: Call, requests: Sequence[ReadRequest], progress: bool | None) -> None:
        """Runs steps until every request of the call has ended.  An exception ends those that have
        not."""
        n_all = len(requests)
        try:
            self.submit(requests)
            with progress_bar(n_all, "prompt", progress) as show:
                while call.open:
                    self._turn(call)
                    show(n_all - len(call.open))
        except BaseException:
            self.give_up(call)
            raise
        call.raise_error()  # maybe of another thread, between two turns of this one

    def submit(self, requests: Iterable[ReadRequest]) -> None:
        """Queues requests; they begin with the next step that somebody runs.  Never waits."""
        self.check_open()
        self._inbox.extend(requests)
        self._wake_pump()

    def give_up(self, call: Call, error: Exception | None = None) -> None:
        """Ends the call's requests before the next step, with an error if one is given.  Never
        waits: safe in a finalizer."""
        if not call.open and not self.noted:
            return
        self._given_up.append((call, error))
        # While the lock is held a step is being run, and the next one begins with the clean-up.
        if not self._in_step() and self._lock.acquire(blocking=False):
            try:
                self._clean_up()
                self._wake()
            finally:
                self._lock.release()
        self._wake_pump()

    def fetched(self, call: Call) -> None:
        """The reader of a call has fetched a chunk: if it was paused, it may go on."""
        if call.is_paused and call.wants_more:
            self._resumed.append(call)
            self._wake_pump()

    def fail_all(self, error: BaseException) -> None:
        """Ends every call with an error: what ran their steps met it, and nobody else will."""
        if not isinstance(error, Exception):
            error = PyroclastError(f"a step ended with {error!r}")
        with self._lock:
            try:
                self._clean_up()
            finally:
                self._end_all(error)
                self._wake()

    def has_work(self) -> bool:
        """Whether there is something to do before or in a next step."""
        if self._freed:
            return bool(self._inbox)
        return bool(
            self._inbox or self._given_up or self._resumed or self.closed or self.stepper.has_work()
        )

    def queued(self) -> tuple[int, int]:
        """How many requests wait to run, and their tokens."""
        inbox, waiting = tuple(self._inbox), self.stepper.scheduler.waiting
        n_tokens = sum(len(request.token_ids) for request in inbox)
        return len(inbox) + len(waiting), n_tokens + waiting.n_tokens

    def close(self) -> None:
        """Ends everything and frees the model; a second call does nothing.  In the middle of a step
        of this very thread it takes effect when that step ends."""
        self.closed = True
        if self._in_step():
            return
        with self._lock:
            self._free()
        self._wake_pump()

    def check_reentry(self) -> None:
        """ReentryError in the middle of a step of this very thread: it would wait for ever."""
        if self._in_step():
            raise ReentryError(_REENTRY)

    def check_open(self) -> None:
        if self.closed:
            raise self.closed_error()

    def closed_error(self) -> ClosedError:
        """What use after the end raises."""
        return ClosedError(self._why_closed)

    # ---- forks and the end of the interpreter: see `process` ---------------------------------

    def hold(self, timeout_s: float) -> bool:
        """Takes the lock, so that no step is being run, unless this very thread runs one."""
        in_step = self._in_step()
        was_taken = self._lock.acquire(timeout=timeout_s)
        if was_taken:
            self._holds.append(not in_step)
            if not in_step:
                self._busy = 0
        return was_taken

    def release(self) -> None:
        """Gives the lock back."""
        self._holds.pop()
        self._lock.release()

    def renew(self, *, was_held: bool) -> None:
        """In the child of a fork.  What other threads had asked for ends: they are not here."""
        if self.pump is not None:
            self.pump.renew()
        if was_held and not self._holds[-1]:  # it goes on with its step
            self.release()
            return
        self._lock, self._owns_lock = turn_lock()
        self._waiting.clear()
        self._holds.clear()
        self._busy = 0
        if not was_held or self.stepper.model.device != "cpu":
            self.closed = self._freed = True
            self._why_closed = (
                "this process is the child of a fork, "
                + ("which CUDA does not survive" if was_held else "made in the middle of a step")
                + '; make a new LLM in it, or start it with the method "spawn"'
            )
            return
        self._clean_up()
        for call in self.stepper.calls():
            if call.chunks is None or call.future is not None:
                self.stepper.end(call)

    # ---- inside ------------------------------------------------------------------------------

    def _in_step(self) -> bool:
        """Whether this very thread is in the middle of a step, or of a piece under the lock."""
        return self._owns_lock() and (self._busy != 0 or not any(self._holds))

    def _free(self) -> None:
        """Each piece may be done twice: after Ctrl-C in the middle, the next call does the rest."""
        self._clean_up()
        if self._freed:
            return
        self._end_all(self.closed_error())
        self._wake()
        self.stepper.close()
        self._freed = True

    def _clean_up(self) -> None:
        """What is interrupted stays in its queue: the next one does it again."""
        try:
            while self._inbox:
                request = self._inbox[0]
                if self._freed:  # it was queued while another thread closed the model
                    self.stepper.end(request.call, self.closed_error())
                elif request in request.call.open:  # an error may have ended it here
                    self.stepper.add(request)
                self._inbox.popleft()
            while self._given_up:
                self.stepper.end(*self._given_up[0])
                self._given_up.popleft()
            while self._resumed:
                self.stepper.resume(self._resumed[0])
                self._resumed.popleft()
        except BaseException:
            self.stepper.distrust()
            raise

    def _end_all(self, error: Exception) -> None:
        for call in self.stepper.calls():
            self.stepper.end(call, error)

    def _wake(self) -> None:
        """Tells the coroutines that wait for what the step has brought."""
        noted = self.noted.copy()
        self._given_up += [(call, None) for call in wake(noted)]
        del self.noted[: len(noted)]

    def _wake_pump(self) -> None:
        if self.pump is not None:
            self.pump.wake()

    def _hand_over(self) -> None:
        """Lets one of the waiting threads have the lock.

        The thread that releases a lock can take it again at once: without this, a long `generate`
        would keep the finished chunks of another thread's stream waiting until its end."""
        deadline = perf_counter() + _MAX_HANDOVER_S
        while self._waiting and not self._busy and perf_counter() < deadline:
            time.sleep(_HANDOVER_POLL_S)
