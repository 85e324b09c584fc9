"""HTTP/1.1 by h11, with one shortcut for streams."""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(h11.Connection):
    """A chunk in the middle of a chunked body changes no state: it is framed here.  h11 would take
    as long for it as everything else that a token costs the server."""

    _is_chunked = False

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
        self.conn = Connection(
            h11.SERVER, max_incomplete_event_size=config.h11_max_incomplete_event_size
        )
