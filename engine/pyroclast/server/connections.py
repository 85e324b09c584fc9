"""The protocol of one connection, with deadlines for requests and a bound on connections.
uvicorn has no timeout for a request that never completes."""

from __future__ import annotations

import asyncio
import dataclasses
import resource
from collections.abc import Callable
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES

from pyroclast.server.errors import HttpError
from pyroclast.server.limits import BodyDeadline, Limits
from pyroclast.server.protocol import Protocol

_SPARE = 128  # descriptors for files, and for those that are refused
_GRACE_S = 1.0  # the application itself answers 408 to a body that does not come; see read_body


def bounded_protocol(limits: Limits, count: Callable[[int], None]) -> type[asyncio.Protocol]:
    """The protocol class that uvicorn makes for each connection.  The process may have fewer
    descriptors than connections are allowed: then these bound them.  `count` gets the status of
    each refusal that the application does not see."""
    n_descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(limits.max_connections, max(1, n_descriptors - _SPARE))
    return type(
        "BoundedProtocol",
        (_BoundedProtocol,),
        {
            "limits": dataclasses.replace(limits, max_connections=n),
            "count": staticmethod(count),
        },
    )


class _BoundedProtocol(Protocol):
    """The first line and the headers have `header_timeout_s`, from the connection or from their
    first byte on; the body has a BodyDeadline.  What comes too late is closed."""

    limits: Limits
    count: Callable[[int], None]
    cycle: Any  # uvicorn's: the last request, None before the first
    _clock: asyncio.TimerHandle | None = None
    _clock_of: Any = None  # (last request, whether headers of the next one are awaited)
    _deadline: BodyDeadline | None = None  # while a body is awaited

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
            if self._deadline is not None:
                self._deadline.received(len(data), self.loop.time())
            super().data_received(data)
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, or headers that are too long.  Where a reply has begun, or the
        rest of a body follows one, no other can be sent: then it only closes."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
        elif self.conn.error_status == 431:
            n_bytes = self.limits.max_header_bytes
            self._refuse(HttpError(431, f"the headers have at most {n_bytes} bytes"))
        else:
            self._refuse(HttpError(400, msg))

    def on_response_complete(self) -> None:
        """The reply is out; the next request may have begun."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Runs the timer only while a request arrives.  More data does not reset that of the
        headers."""
        state = self.conn.their_state
        is_idle = state is h11.IDLE
        in_headers = is_idle and (self.cycle is None or bool(self.conn.trailing_data[0]))
        if self._clock is not None and self._clock_of != (self.cycle, in_headers):
            self._stop()
        if self.transport.is_closing():
            self._stop()
        elif in_headers or state is h11.SEND_BODY:
            if self._clock is None:
                self._start(in_headers)
        else:
            self._stop()
            if is_idle and self.timeout_keep_alive_task is None:
                # The body came after its reply: uvicorn stopped its timer at the first byte.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _start(self, in_headers: bool) -> None:
        wait_s = self.limits.header_timeout_s
        if not in_headers:
            wait_s = self.limits.body_timeout_s + _GRACE_S
            self._deadline = BodyDeadline(wait_s, self.loop.time())
        self._clock_of = (self.cycle, in_headers)
        self._clock = self.loop.call_later(wait_s, self._too_late)

    def _stop(self) -> None:
        self._deadline = None
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_late(self) -> None:
        deadline = self._deadline
        if deadline is None:
            if self.conn.trailing_data[0]:
                wait_s = self.limits.header_timeout_s
                self._refuse(HttpError(408, f"the headers did not come within {wait_s:g} seconds"))
            else:
                self.transport.close()
        # Nobody needs the rest of a body that has its reply: it gets no more time for its size.
        elif self.cycle.response_complete or deadline.at_s <= self.loop.time():
            self.transport.close()
        else:
            self._clock = self.loop.call_at(deadline.at_s, self._too_late)

    def _refuse(self, error: HttpError) -> None:
        """Sends an error without the application, then closes the connection."""
        self.count(error.status)
        body = msgspec.json.encode(error.body())
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        headers |= {"connection": "close"} | error.headers()
        lines = [f"{name}: {value}" for name, value in headers.items()]
        phrase = STATUS_PHRASES[error.status].decode()
        head = "\r\n".join([f"HTTP/1.1 {error.status} {phrase}", *lines, "", ""])
        self.transport.write(head.encode("latin-1") + body)
        self.transport.close()
