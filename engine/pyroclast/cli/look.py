"""The command look: a page in the browser that shows how a model picks the next token."""

from __future__ import annotations

import threading
import webbrowser
from typing import TYPE_CHECKING

from pyroclast.cli import serve

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The flags of serve, with the defaults of a page for one person."""
    serve.add_arguments(command, name)
    command.add_argument("--no-browser", action="store_true", help="only print the address")
    command.set_defaults(look=True, embeddings=True, port=0)


def look(args: Namespace) -> None:
    """Serves the page on this machine and opens it, until Ctrl-C."""
    serve.run(args, None if args.no_browser else _open)


def _open(url: str) -> None:
    """In a thread, because a browser in the terminal would hold up the server."""
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
