"""One call of a user's: the requests that it has open, how it failed, what it has to fetch."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from pyroclast.engine.output import Chunk
from pyroclast.engine.request import Request
from pyroclast.errors import RequestError
from pyroclast.model.adapters import BASE, AdapterKey

MAX_UNREAD_CHUNKS = 128


class Call:
    """`open` holds the requests that have not ended.  `error` is what ended them before their
    time, until it is raised.  `chunks` holds what nobody has fetched yet; it is None unless the
    call collects chunks.
    step_bandwidth_share: what one step per second takes of the memory bandwidth; 0 if that is
    not known.  `future` is where a coroutine waits for news, if one does; `noted` lists the calls
    that have some, for whoever ran the step.  priority: "interactive" or "batch".  adapter:
    the one that its requests use, or a list of one for each of its prompts.  A call whose reader is
    slow is paused when `max_unread` chunks wait, until half of them are fetched."""

    __slots__ = (
        "_adapter",
        "arrived_s",
        "chunks",
        "error",
        "future",
        "is_paused",
        "max_unread",
        "noted",
        "open",
        "priority",
        "step_bandwidth_share",
    )

    def __init__(
        self,
        *,
        collects_chunks: bool = False,
        step_bandwidth_share: float = 0.0,
        noted: list[Call] | None = None,
        adapter: AdapterKey | list[AdapterKey] = BASE,
    ) -> None:
        self.arrived_s = perf_counter()
        self.step_bandwidth_share = step_bandwidth_share
        self.open: set[Request] = set()
        self.chunks: deque[Chunk] | None = deque() if collects_chunks else None
        self.error: Exception | None = None
        self.priority = "interactive"
        self.max_unread = MAX_UNREAD_CHUNKS
        self.is_paused = False
        self.future: Any = None
        self.noted = noted
        self._adapter = adapter

    @property
    def adapter(self) -> AdapterKey:
        """The one of all requests; RequestError where each prompt has its own."""
        if isinstance(self._adapter, list):
            raise RequestError("only generate() and chat() take a list of adapters; give one name")
        return self._adapter

    def adapters(self, n_prompts: int) -> list[AdapterKey]:
        """The one of each prompt; RequestError for a list of another length."""
        if not isinstance(self._adapter, list):
            return [self._adapter] * n_prompts
        if len(self._adapter) != n_prompts:
            raise RequestError(
                f"got {len(self._adapter)} adapters for {n_prompts} prompts; give one name, or a "
                "list with a name or None for each prompt"
            )
        return self._adapter

    @property
    def has_news(self) -> bool:
        """Whether there is something to fetch, or nothing more to wait for."""
        return bool(self.chunks) or self.error is not None or not self.open

    @property
    def is_full(self) -> bool:
        """Whether as many chunks wait as may."""
        return self.chunks is not None and len(self.chunks) >= self.max_unread

    @property
    def wants_more(self) -> bool:
        """Whether so many are fetched that a paused call can go on."""
        return self.chunks is not None and len(self.chunks) <= self.max_unread // 2

    def raise_error(self) -> None:
        """Raises what ended the call before its time, once.  The error's traceback names this call;
        with the error in it, that would be a circle, which holds the model after its last use."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def note(self) -> None:
        """There is news: whoever ran the step wakes the coroutine that waits, if one does."""
        if self.future is not None and self.noted is not None:
            self.noted.append(self)
