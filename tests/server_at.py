"""A server of the demo model on a free port, in a thread of the tests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from pyroclast.server.app import App, create_app
from pyroclast.server.limits import Limits
from pyroclast.server.run import Server, listen, make_server

WAIT_S = 60
MODEL = "demo"
HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


class RunningServer:
    """`url` answers until the `with` block ends."""

    def __init__(self, url: str, server: Server, app: App) -> None:
        self.url, self.server, self.app = url, server, app


@contextlib.contextmanager
def serving(llms: Any, *, limits: Limits | None = None, **options: Any) -> Iterator[RunningServer]:
    """Serves AsyncLLMs with the options of create_app."""
    limits = limits or Limits()
    application = create_app(llms, limits=limits, **options)
    app = application if isinstance(application, App) else application.app
    bound = listen("127.0.0.1", 0)
    server = make_server(application, app, limits=limits, shutdown_timeout_s=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + WAIT_S
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield RunningServer(f"http://127.0.0.1:{bound.getsockname()[1]}", server, app)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        bound.close()
        assert not thread.is_alive()
