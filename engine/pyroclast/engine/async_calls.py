"""The calls of coroutines: their names, the bound on what waits, and their end."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Sequence
from time import perf_counter

from pyroclast.engine import checks
from pyroclast.engine.call import Call
from pyroclast.engine.generate_request import GenerateRequest
from pyroclast.engine.loop import Loop
from pyroclast.engine.pump import Pump
from pyroclast.engine.read_request import ReadRequest
from pyroclast.engine.wake import news_of
from pyroclast.errors import QueueFullError, RequestError

_DRAIN_POLL_S = 0.01


class AsyncCalls:
    """Queues requests on a loop whose steps a pump runs.  At most `max_requests` requests and
    `max_tokens` tokens wait to begin.  Any thread may use it."""

    def __init__(self, loop: Loop, max_requests: int, max_tokens: int) -> None:
        self.loop = loop
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.closed = False  # no new calls
        self._ended = False  # nor new requests of those that there are
        self._calls: dict[str, Call] = {}
        self._lock = threading.Lock()  # around what is counted and what is queued after it
        if loop.pump is None:
            loop.pump = Pump(loop)

    @property
    def n_preemptions(self) -> int:
        """How often a request gave up its blocks for others."""
        return self.loop.stepper.scheduler.n_preemptions

    def load(self) -> dict[str, float]:
        """Requests that run and that wait to begin, and the share of the KV cache in use."""
        scheduler = self.loop.stepper.scheduler
        pool = scheduler.pool
        return {
            "running": len(scheduler.running),
            "waiting": self.loop.queued()[0],
            "cache_usage": 1 - pool.n_available / pool.n_blocks,
        }

    def begin(self, call: Call, request_id: str | None) -> str:
        """Gives the call its name.  An event loop inside a step would wait for the next one."""
        self.loop.check_reentry()
        if self.closed:
            raise self.loop.closed_error()
        name = uuid.uuid4().hex if request_id is None else request_id
        if self._calls.setdefault(name, call) is not call:
            raise RequestError(
                f"request_id {name!r} names a request that has not ended; give each its own"
            )
        return name

    def submit(self, name: str, requests: Sequence[ReadRequest]) -> None:
        """Queues the requests of a call, if there is room for them.  Never waits."""
        if self._ended:
            raise self.loop.closed_error()
        if name not in self._calls:  # aborted while its prompt was read
            for request in requests:
                request.call.open.discard(request)
                if isinstance(request, GenerateRequest):
                    request.finish("abort")
            return
        with self._lock:
            self._check_room(len(requests), sum(len(r.token_ids) for r in requests))
            self.loop.submit(requests)

    def _check_room(self, n_requests: int, n_tokens: int) -> None:
        if n_requests > self.max_requests or n_tokens > self.max_tokens:
            raise RequestError(
                f"{n_requests} completions and {n_tokens} tokens never fit: max_queued_requests is "
                f"{self.max_requests} and max_queued_tokens is {self.max_tokens}; ask for fewer"
            )
        n_queued, n_queued_tokens = self.loop.queued()
        if n_queued + n_requests > self.max_requests:
            raise QueueFullError(
                f"the queue is full: {n_queued} requests wait, {n_requests} more came, and "
                f"max_queued_requests is {self.max_requests}; try again later"
            )
        if n_queued_tokens + n_tokens > self.max_tokens:
            raise QueueFullError(
                f"the queue is full: {n_queued_tokens} tokens wait, {n_tokens} more came, and "
                f"max_queued_tokens is {self.max_tokens}; try again later"
            )

    async def end_of(self, call: Call) -> None:
        """Waits until the call has ended; raises what ended it, if it did not end well."""
        await news_of(call)
        call.raise_error()

    def forget(self, name: str, call: Call) -> None:
        """Ends what is left of a call, before the next step.  Never waits: safe in a finalizer."""
        self.loop.give_up(call)
        self._calls.pop(name, None)

    def abort(self, name: str) -> bool:
        """Ends a call as if its reader had; False if there is none of that name."""
        call = self._calls.pop(name, None)
        if call is not None:
            self.loop.give_up(call)
        return call is not None

    async def close(self, drain_s: float) -> None:
        """Takes no new calls, waits for those that there are, then ends them with ClosedError."""
        self.closed = True
        deadline = perf_counter() + drain_s
        while self._calls and perf_counter() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)
        self._ended = True
        for call in list(self._calls.values()):
            self.loop.give_up(call, self.loop.closed_error())


def queue_limits(max_queued_requests: int, max_queued_tokens: int) -> tuple[int, int]:
    """The limits of a queue, checked."""
    checks.check_positive("max_queued_requests", max_queued_requests)
    checks.check_positive("max_queued_tokens", max_queued_tokens)
    return max_queued_requests, max_queued_tokens
