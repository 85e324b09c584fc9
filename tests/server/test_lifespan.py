"""The beginning and the end of the application, as an ASGI server tells them."""

from __future__ import annotations

import asyncio
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


def test_an_llm_that_is_not_wrapped_is_refused_with_the_remedy() -> None:
    with fake_llm() as llm, pytest.raises(RequestError, match=r"got LLM; AsyncLLM.of\(llm\) wraps"):
        create_app(llm)  # type: ignore[arg-type]
