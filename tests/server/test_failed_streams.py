"""Streams of the engine that end with an error of any kind: it is told and counted, and no client
waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from pyroclast.errors import NumericalError
from pyroclast.server.errors import HttpError
from pyroclast.server.generation import Generation
from pyroclast.server.metrics import Metrics
from pyroclast.server.sse import EventStream

WAIT_S = 30


class Stream:
    """Gives nothing until it is closed, or raises what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error, self._closed = error, asyncio.Event()

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        self._closed.set()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if self._error is not None:
            raise self._error
        await self._closed.wait()
        raise StopAsyncIteration


async def follow(errors: list[Exception | None], metrics: Metrics) -> None:
    """Reads the chunks of a stream for each of `errors`."""
    streams: Any = [Stream(error) for error in errors]
    generation = Generation(streams, [1] * len(errors), metrics, "m")
    await generation.start()
    async with asyncio.timeout(WAIT_S):
        async for _ in generation.chunks():
            pass


@pytest.mark.parametrize("n_others", [0, 1])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NumericalError("NaN"), "NumericalError"),
        (MemoryError(), "internal_error"),
        (ValueError("raised by a step"), "internal_error"),
    ],
    ids=repr,
)
def test_any_error_of_a_stream_ends_the_request(error: Exception, code: str, n_others: int) -> None:
    metrics = Metrics()
    with pytest.raises(HttpError) as caught:
        asyncio.run(follow([*[None] * n_others, error], metrics))
    assert (caught.value.status, caught.value.code) == (500, code)
    assert caught.value.__cause__ is error
    lines = metrics.text().decode().splitlines()
    assert 'pyroclast:requests_failed_total{model_name="m"} 1.0' in lines


@pytest.mark.parametrize("is_ours", [True, False])
def test_the_log_has_the_details_of_a_stream_that_failed(
    is_ours: bool, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("raised by a step") if is_ours else HttpError(400, "too long")

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        raise error

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(_: Any) -> None:
        pass

    async def nothing() -> None:
        pass

    told: list[HttpError] = []

    def on_error(refused: HttpError) -> bytes:
        told.append(refused)
        return b""

    stream = EventStream(events(), headers={}, on_error=on_error, on_end=nothing)
    asyncio.run(stream({}, receive, send))
    assert [each.status for each in told] == [500 if is_ours else 400]
    logged = [each.exc_info[1] for each in caplog.records if each.exc_info]
    assert logged == ([error] if is_ours else [])
