"""The work behind the page `look`: a few views at a time, in threads, while streams go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyroclast.server.errors import HttpError

T = TypeVar("T")

_N_WORKERS = 2
_MAX_VIEWS = 32


class Views:
    """Runs views in n_workers threads of their own, max_views of them at most, those that wait
    included."""

    def __init__(self, max_views: int = _MAX_VIEWS, n_workers: int = _N_WORKERS) -> None:
        self._room = threading.Semaphore(max_views)
        self._max_views = max_views
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="pyroclast-look")

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`; HttpError 429 where too many views wait already.  Cancelling ends
        work that has not begun."""
        if not self._room.acquire(blocking=False):
            raise HttpError(
                429,
                f"{self._max_views} views are being computed; try again in a moment",
                code="too_many_views",
                retry_after_s=1,
            )
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._room.release())
        return await asyncio.wrap_future(future)
