"""How a thread that ran a step tells coroutines that wait, and how they wait."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from pyroclast.engine.call import Call

if TYPE_CHECKING:
    import asyncio

    Futures = list[asyncio.Future[None]]


class Runner(Protocol):
    """A thread that runs steps for those who cannot."""

    def wake(self) -> None: ...
    def renew(self) -> None: ...


def wake(calls: Iterable[Call]) -> list[Call]:
    """Wakes whoever waits for `calls`: one message to each event loop, however many wait there.
    Returns the calls whose event loop is gone."""
    by_loop: dict[asyncio.AbstractEventLoop, tuple[Futures, list[Call]]] = {}
    for call in calls:
        future = call.future
        if future is not None:
            futures, theirs = by_loop.setdefault(future.get_loop(), ([], []))
            futures.append(future)
            theirs.append(call)
    gone: list[Call] = []
    for event_loop, (futures, theirs) in by_loop.items():
        try:
            event_loop.call_soon_threadsafe(_set_results, futures)
        except RuntimeError:  # it was closed: nobody can wait there any more
            gone += theirs
    return gone


def _set_results(futures: Futures) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


async def news_of(call: Call) -> None:
    """Waits until the call has news."""
    import asyncio

    while not call.has_news:
        call.future = asyncio.get_running_loop().create_future()
        try:
            # News that came before the future was there woke nobody.
            if not call.has_news:
                await call.future
        finally:
            call.future = None
