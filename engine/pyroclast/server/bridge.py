"""An ASGI application behind something that is no HTTP server: a call goes in, messages come out.

So a request can be read in one process and answered in another; see `ray_app`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was read whole.  It can be pickled.  headers: as ASGI has them, names in lower
    case."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""

    @classmethod
    def of(cls, scope: Mapping[str, Any], body: bytes) -> Call:
        """The call of an ASGI scope; its path is the one below the application's root."""
        path: str = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        return cls(scope["method"], path, headers, body)

    def scope(self) -> dict[str, Any]:
        """What an ASGI application gets."""
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": self.headers,
            "client": None,
            "server": None,
        }


async def answer(app: ASGIApp, call: Call) -> AsyncGenerator[list[Message], None]:
    """The messages that `app` sends, as they come: all that are there at a time.  For `app`, the
    client goes away when the generator is closed or cancelled."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    unread = [call.body]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.put_nowait(dict(message))

    async def run() -> None:
        try:
            await app(call.scope(), receive, send)
        finally:
            sent.put_nowait(None)

    task = asyncio.ensure_future(run())
    try:
        ended = False
        while not ended:
            messages = [await sent.get()]
            while not sent.empty():
                messages.append(sent.get_nowait())
            ended = messages[-1] is None
            if found := [message for message in messages if message is not None]:
                yield found
        await task  # raises what the application did
    finally:
        gone.set()
        task.cancel()  # nothing, where it is done
        await asyncio.wait({task})
