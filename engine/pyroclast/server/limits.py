"""What a client may ask of the server's memory and patience."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pyroclast.server.errors import HttpError
from pyroclast.server.sse import Receive


@dataclass(frozen=True, slots=True)
class Limits:
    """Each bounds one thing that a client can bring; exceeding it is 400, 408, 413, 429 or 503."""

    max_body_bytes: int = 16 << 20
    max_header_bytes: int = 32 << 10
    max_connections: int = 4096
    header_timeout_s: float = 30.0  # from the connection, or from their first byte
    body_timeout_s: float = 30.0  # from the end of the headers
    keep_alive_s: int = 75  # between a reply and the next request


async def read_body(receive: Receive, limits: Limits, declared: str | None) -> bytes:
    """The whole body; HttpError 413 as soon as it is too long, 408 if it does not come."""
    if declared is not None and declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise _too_long(limits)
    try:
        return await asyncio.wait_for(_read(receive, limits), limits.body_timeout_s)
    except TimeoutError:
        raise HttpError(
            408, f"the body did not come within {limits.body_timeout_s:g} seconds"
        ) from None


async def _read(receive: Receive, limits: Limits) -> bytes:
    pieces, n_bytes = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HttpError(499, "the client closed the connection")
        piece = message.get("body", b"")
        n_bytes += len(piece)
        if n_bytes > limits.max_body_bytes:
            raise _too_long(limits)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def _too_long(limits: Limits) -> HttpError:
    return HttpError(413, f"a body has at most {limits.max_body_bytes} bytes")
