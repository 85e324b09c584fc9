"""HTTP/1.1 by h11, with one shortcut for streams."""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(h11.Connection):
    """Frames the chunks of a streamed body without h11, because they change no state.  h11 would
    double the server's cost of a token."""

    error_status = 400  # for a request that h11 or this class refused
    _is_chunked = False

    def __init__(self, our_role: Any, max_header_bytes: int = 32 << 10) -> None:
        super().__init__(our_role, max_header_bytes)
        self._max_header_bytes = max_header_bytes

    def next_event(self) -> Any:
        """The next event.  h11 bounds headers only while they are incomplete: those that come in
        one piece are checked here."""
        try:
            found = super().next_event()
        except h11.RemoteProtocolError as error:
            self.error_status = error.error_status_hint
            raise
        if type(found) is h11.Request and _n_bytes(found) > self._max_header_bytes:
            self.error_status = 431
            raise h11.RemoteProtocolError("the headers are too long")
        return found

    def send(self, event: Any) -> Any:
        """The bytes of an event."""
        if self._is_chunked and type(event) is h11.Data and self.our_state is h11.SEND_BODY:
            data = event.data
            # An empty chunk would end the body.
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        sent = super().send(event)
        if type(event) is h11.Response:
            self._is_chunked = b"\r\ntransfer-encoding: chunked\r\n" in (sent or b"").lower()
        return sent


class Protocol(H11Protocol):
    """uvicorn's protocol on such connections."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn: Connection = Connection(h11.SERVER, config.h11_max_incomplete_event_size)


def _n_bytes(request: h11.Request) -> int:
    """The bytes of the first line and the headers, without spaces that h11 left out."""
    n_bytes = len(request.method) + len(request.target) + len(b"  HTTP/1.1\r\n\r\n")
    return n_bytes + sum(len(name) + len(value) + len(b": \r\n") for name, value in request.headers)
