"""The protocol of one connection, with a deadline for requests and a bound on their
number.  uvicorn itself waits for ever for a request that began and does not end."""

from __future__ import annotations

import asyncio
import dataclasses
import resource
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES

from pyroclast.server.errors import HttpError
from pyroclast.server.limits import Limits
from pyroclast.server.protocol import Protocol

_SPARE = 128  # descriptors for files, and for those that are refused
_GRACE_S = 1.0  # the application itself answers 408 to a body that does not come; see read_body


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol class that uvicorn makes for each connection.  The process may have fewer
    descriptors than connections are allowed: then these bound them."""
    n_descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(limits.max_connections, max(1, n_descriptors - _SPARE))
    return type(
        "BoundedProtocol",
        (_BoundedProtocol,),
        {"limits": dataclasses.replace(limits, max_connections=n)},
    )


class _BoundedProtocol(Protocol):
    """The first line and the headers have `header_timeout_s`, from the connection or from their
    first byte on; the body has `body_timeout_s`.  What comes too late is closed."""

    limits: Limits
    cycle: Any  # uvicorn's: the last request, None before the first
    _clock: asyncio.TimerHandle | None = None
    _clock_of: Any = None  # the request before the headers, or the one whose body is awaited

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection; one too many is told so and closed."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            message = f"the server has {self.limits.max_connections} connections and takes no more"
            self._refuse(HttpError(503, message, code="too_many_connections", retry_after_s=1))
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of the connection."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a request."""
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """The reply is out; the next request may have begun."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Lets the clock run while a request is arriving, and only then.  A piece of it does not
        set the clock back."""
        state = self.conn.their_state
        in_headers = state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0])
        if self._clock is not None and self._clock_of is not self.cycle:
            self._stop()
        if not (in_headers or state is h11.SEND_BODY) or self.transport.is_closing():
            self._stop()
        elif self._clock is None:
            wait_s = self.limits.header_timeout_s
            if not in_headers:
                wait_s = self.limits.body_timeout_s + _GRACE_S
            self._clock_of = self.cycle
            self._clock = self.loop.call_later(wait_s, self._too_late)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_late(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            wait_s = self.limits.header_timeout_s
            self._refuse(HttpError(408, f"the headers did not come within {wait_s:g} seconds"))
        else:
            self.transport.close()

    def _refuse(self, error: HttpError) -> None:
        """A reply that no application gives, and the end of the connection."""
        body = msgspec.json.encode(error.body())
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= {"connection": "close"} | error.headers()
        lines = [f"{name}: {value}" for name, value in headers.items()]
        phrase = STATUS_PHRASES[error.status].decode()
        head = "\r\n".join([f"HTTP/1.1 {error.status} {phrase}", *lines, "", ""])
        self.transport.write(head.encode("latin-1") + body)
        self.transport.close()
