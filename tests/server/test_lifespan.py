"""The beginning and the end of the application, as an ASGI server tells them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from fake_model import fake_llm
from pyroclast import RequestError
from pyroclast.server.app import App, create_app
from pyroclast.server.limits import Limits
from pyroclast.server.metrics import Metrics
from pyroclast.server.served import ServedModels


def test_a_cancelled_lifespan_ends_without_an_error() -> None:
    """A second signal cancels it; an exception would be logged with a traceback."""
    app = App(ServedModels([]), api_keys=(), limits=Limits(), metrics=Metrics())
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def main() -> None:
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        inbox.put_nowait({"type": "lifespan.startup"})
        task = asyncio.ensure_future(app({"type": "lifespan"}, inbox.get, send))
        while not sent:
            await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(main())
    assert sent == ["lifespan.startup.complete"]


def test_a_second_signal_while_the_room_closes_is_quiet_as_well() -> None:
    closing, may_end = threading.Event(), threading.Event()

    class SlowLook:
        def routes(self) -> list[Any]:
            return []

        def close(self) -> None:
            closing.set()
            may_end.wait(60)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    async def main() -> None:
        look: Any = SlowLook()
        app = App(ServedModels([]), api_keys=(), limits=Limits(), metrics=Metrics(), look=look)
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        inbox.put_nowait({"type": "lifespan.shutdown"})
        task = asyncio.ensure_future(app({"type": "lifespan"}, inbox.get, send))
        while not closing.is_set():
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        finally:
            may_end.set()

    asyncio.run(main())


def test_an_llm_that_is_not_wrapped_is_refused_with_the_remedy() -> None:
    with fake_llm() as llm:
        for given in (llm, {"m": llm}):
            with pytest.raises(RequestError, match=r"got LLM; AsyncLLM.of\(llm\) wraps"):
                create_app(given)  # type: ignore[arg-type]
