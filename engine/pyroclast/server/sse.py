"""Server-sent events: a reply that sends events as they come, pings while nothing comes, and ends
its work when the client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from pyroclast.server.errors import HttpError, of_exception

Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]
Scope = Mapping[str, Any]

FIRST_PING_S = 0.8  # "within one second" for clients that wait for the first byte
PING_S = 15.0
_PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

_encode_json = msgspec.json.Encoder().encode
log = logging.getLogger("pyroclast.server")


def failure(error: Exception) -> HttpError:
    """What a client is told of an error after its stream began.  The log gets what is not the
    client's fault, with the traceback."""
    refused = of_exception(error)
    if refused.status == 500:
        log.error("a stream failed", exc_info=error)
    return refused


def _encode(value: Any) -> bytes:
    """The JSON of a value, with U+0085, U+2028 and U+2029 escaped: a client that reads lines by
    Unicode's rules (httpx, `str.splitlines`) would cut the event there."""
    data = _encode_json(value)
    data = data.replace(b"\xc2\x85", b"\\u0085")
    return data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


def event(value: Any, name: str | None = None) -> bytes:
    """One event; `name` for protocols that name theirs."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + _encode(value) + b"\n\n"


def chunk_writer(head: Mapping[str, Any]) -> Callable[[Any, Mapping[str, Any]], bytes]:
    """Gives (choices, further fields) -> the event of a chunk with these and the fields of `head`,
    which are encoded once."""
    before = b"data: " + _encode(head)[:-1] + b',"choices":'

    def write(choices: Any, more: Mapping[str, Any]) -> bytes:
        after = b"," + _encode(more)[1:] if more else b"}"
        return before + _encode(choices) + after + b"\n\n"

    return write


class EventStream:
    """An ASGI reply.  `events` yields ready bytes; `on_error` makes the one event that tells of an
    error after the stream began."""

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        headers: Mapping[str, str],
        on_error: Callable[[HttpError], bytes],
        on_end: Callable[[], Awaitable[None]],
    ) -> None:
        self._events, self._headers = events, headers
        self._on_error, self._on_end = on_error, on_end
        self._sent_s: float | None = None  # when the last bytes were sent, by the event loop
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the events end or the client is gone."""
        del scope
        head = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        head |= {"x-accel-buffering": "no"} | dict(self._headers)
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.items()]
        tasks: set[asyncio.Future[None]] = set()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            tasks = {asyncio.ensure_future(_until_gone(receive))}
            tasks.add(asyncio.ensure_future(self._send_all(send)))
            await self._ping_until(tasks, send)
        finally:
            await self._end(tasks)

    async def _end(self, tasks: set[asyncio.Future[None]]) -> None:
        """Ends the tasks, the events and the work, whatever any of them raises."""
        try:
            for task in tasks:
                task.cancel()  # nothing, where it is done
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task
        finally:
            try:
                await self._events.aclose()
            finally:
                await self._on_end()  # events that were never asked for have not ended it

    async def _send_all(self, send: Send) -> None:
        """One task for all events, and no timer: both would cost more than the event itself."""
        now = asyncio.get_running_loop().time
        try:
            async for data in self._events:
                self._is_sending = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
                self._sent_s, self._is_sending = now(), False
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            data = self._on_error(failure(error))
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping_until(self, ends: set[asyncio.Future[None]], send: Send) -> None:
        """Returns when one of `ends` is done; sends a ping when nothing else was sent for a
        while."""
        now = asyncio.get_running_loop().time
        begin_s = now()
        while True:
            last_s, wait_s = self._sent_s, PING_S
            if last_s is None:
                last_s, wait_s = begin_s, FIRST_PING_S
            left_s = PING_S if self._is_sending else last_s + wait_s - now()
            if left_s <= 0:
                self._sent_s = now()
                await send({"type": "http.response.body", "body": _PING, "more_body": True})
                continue
            done, _ = await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return


async def _until_gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Any) -> Any:
    """The result of `work`, an awaitable; cancelled, with HttpError 499, if the client goes away
    first."""
    gone = asyncio.ensure_future(_until_gone(receive))
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({gone, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HttpError(499, "the client closed the connection")
    finally:
        for each in (gone, task):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each
