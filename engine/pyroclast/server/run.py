"""Runs the application under uvicorn: sockets, signals, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from pyroclast.errors import RequestError
from pyroclast.server.connections import bounded_protocol
from pyroclast.server.limits import Limits

if TYPE_CHECKING:
    from pyroclast.server.app import App

log = logging.getLogger("pyroclast.server")

_POLL_S = 0.05


class Server(uvicorn.Server):
    """On the first SIGTERM or SIGINT it takes no new requests, lets the running ones finish for
    shutdown_timeout_s, then ends them with an error event; on the second it ends at once."""

    def __init__(self, config: uvicorn.Config, app: App, shutdown_timeout_s: float) -> None:
        super().__init__(config)
        self._app, self._shutdown_timeout_s = app, shutdown_timeout_s
        self._drain: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours, which drain; in a thread that is not the main one, none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self.handle_exit, each, None)
        try:
            yield
        finally:
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(each)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end."""
        del sig, frame
        if self._app.draining:
            self.should_exit = self.force_exit = True
            return
        self._app.draining = True
        self._drain = asyncio.get_running_loop().create_task(self._drain_all())

    async def _drain_all(self) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._shutdown_timeout_s
        while self._app.n_active and loop.time() < until_s:
            await asyncio.sleep(_POLL_S)
        if self._app.n_active:
            log.warning("%d requests did not end in time and are cut off", self._app.n_active)
            for served in self._app.models.all:
                await served.llm.close()  # its streams end with an error event
            until_s = loop.time() + 5
            while self._app.n_active and loop.time() < until_s:
                await asyncio.sleep(_POLL_S)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """The bound socket; port 0 takes any that is free.  RequestError that says what is wrong."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RequestError(f"cannot listen on {host}:{port}: {reason}") from error
    bound.listen(2048)
    return bound


def make_server(
    application: object, app: App, *, limits: Limits, shutdown_timeout_s: float
) -> Server:
    """A uvicorn server with our limits."""
    config = uvicorn.Config(
        application,  # type: ignore[arg-type]
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=limits.max_header_bytes,
        http=bounded_protocol(limits, app.metrics.count_refused),
        ws="none",
    )
    return Server(config, app, shutdown_timeout_s)
