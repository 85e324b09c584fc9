"""The second engine that a comparison may ask for: one at a time, made when it is first wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pyroclast import lens
from pyroclast.errors import ClosedError, KernelError, MemoryBudgetError, ModelFileError
from pyroclast.lens.variants import is_updated
from pyroclast.llm import LLM
from pyroclast.server.errors import HttpError
from pyroclast.server.look_work import Views

T = TypeVar("T")

IDLE_S = 300.0
_MAX_WAITING = 4


class Variants:
    """Lends a variant of a served model; keeps the last one until another is asked for, or nobody
    has used it for idle_s seconds.

    All work on variants runs one after the other in one thread of its own: loading one holds up
    neither streams nor other views."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._views = Views(_MAX_WAITING, n_workers=1)
        self._lock = threading.Lock()  # held while one is used or made
        self._kept: tuple[LLM, lens.Variant, LLM] | None = None  # of which, what differs, itself
        self._timer: threading.Timer | None = None
        self._is_closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which may use `lent`; HttpError 429 where too many wait."""
        return await self._views.run(work)

    @contextmanager
    def lent(self, llm: LLM, change: lens.Variant) -> Iterator[LLM]:
        """The variant, for as long as the block lasts; HttpError where there cannot be one."""
        with self._lock:
            self._forget_timer()
            try:
                yield self._found(llm, change)
            finally:
                self._start_timer()

    def close(self) -> None:
        """Ends what uses the variant, and frees it; there is none afterwards."""
        self._is_closed = True
        self._forget_timer()
        if (kept := self._kept) is not None:
            kept[2].close()

    def _found(self, llm: LLM, change: lens.Variant) -> LLM:
        self._check_open()
        kept = self._kept
        if kept is not None and kept[:2] == (llm, change) and not is_updated(llm):
            return kept[2]
        self._drop()  # first: two of them may not fit
        # Half of the cores: the steps of streams go on beside it.
        made = _made(llm, change, max(1, llm.n_threads // 2))
        self._kept = llm, change, made
        try:
            self._check_open()
        except ClosedError:
            made.close()
            raise
        return made

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the server is shutting down")

    def _drop(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            kept[2].close()

    def _start_timer(self) -> None:
        if self._kept is None or self._is_closed:
            return
        self._timer = threading.Timer(self._idle_s, self._end_idle)
        self._timer.daemon = True
        self._timer.start()

    def _forget_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _end_idle(self) -> None:
        """Nobody has used it for a while, unless somebody does now."""
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()


def _made(llm: LLM, change: lens.Variant, threads: int) -> LLM:
    try:
        return lens.variant(llm, change, threads=threads)
    except MemoryBudgetError as error:
        raise HttpError(503, str(error), code="no_memory", retry_after_s=60) from error
    except (KernelError, ModelFileError) as error:  # what was asked for cannot be
        raise HttpError(400, str(error), param="variant", code="invalid_value") from error
