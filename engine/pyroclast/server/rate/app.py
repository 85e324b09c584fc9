"""The page `rate` and its data, for one person on this machine: an ASGI application.

Everything comes from this server, nothing is inline, and a request must name this server as its
host: a page of another site can neither read a rating nor send one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyroclast.errors import PyroclastError
from pyroclast.train.rating_session import RatingSession
from pyroclast.train.ratings import jsonl

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}
_MAX_BODY_BYTES = 4096


class RefusedError(Exception):
    """A request that is not answered: its status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class RateApp:
    """hosts: names, without ports, under which a browser may ask for it."""

    def __init__(self, session: RatingSession, hosts: Collection[str]) -> None:
        self._session, self._hosts = session, frozenset(hosts)
        folder = Path(__file__).parent
        self._files = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI, of HTTP requests only."""
        if scope["type"] != "http":
            return
        status, kind = 200, "application/json"
        try:
            _check_host(scope, self._hosts)
            body, kind = await self._reply(scope, receive)
        except (RefusedError, PyroclastError) as error:
            status = error.status if isinstance(error, RefusedError) else 400
            body = json.dumps({"error": str(error)}).encode()
        head = _ALWAYS | {"content-type": kind, "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in head.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        sent = body if scope["method"] != "HEAD" else b""
        await send({"type": "http.response.body", "body": sent})

    async def _reply(self, scope: Any, receive: Any) -> tuple[bytes, str]:
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD") and path in self._files:
            return self._files[path]
        if method == "GET" and path == "/api/export":
            return jsonl(self._session.ratings.export()).encode(), "application/jsonl"
        if method == "GET" and path == "/api/pair":
            return await self._state(), "application/json"
        if method == "POST" and path in ("/api/rating", "/api/undo"):
            value = await _body(scope, receive)
            if path == "/api/undo":
                self._session.ratings.undo()
            else:
                self._rate(value)
            return await self._state(), "application/json"
        raise RefusedError(404, f"there is no {method} {path:.100}")

    def _rate(self, value: dict[str, Any]) -> None:
        pair_id, choice = value.get("id"), value.get("choice")
        if type(pair_id) is not int or not isinstance(choice, str):
            raise RefusedError(400, 'a rating is {"id": number, "choice": "a", "b" or "skip"}')
        self._session.ratings.rate(pair_id, choice)

    async def _state(self) -> bytes:
        """The pair to rate now, which may have to be generated, and how far one is."""
        async with self._turn:
            pair = await asyncio.to_thread(self._session.next)
        found = {
            "done": self._session.n_done,
            "wanted": self._session.n_wanted,
            "pair": None if pair is None else asdict(pair),
        }
        return json.dumps(found).encode()


def _check_host(scope: Any, hosts: Collection[str]) -> None:
    given = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    name = given.rpartition(":")[0] if not given.endswith("]") and ":" in given else given
    if name not in hosts:
        raise RefusedError(403, f"this server is not {given[:100]!r}")


async def _body(scope: Any, receive: Any) -> dict[str, Any]:
    """The JSON object of a request.  Its type has to be JSON, which no form of another site has."""
    kind = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "content-type must be application/json")
    raw, more = b"", True
    while more:
        message = await receive()
        raw += message.get("body", b"")
        more = message.get("more_body", False)
        if len(raw) > _MAX_BODY_BYTES:
            raise RefusedError(413, f"the body has more than {_MAX_BODY_BYTES} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise RefusedError(400, "the body must be a JSON object")
    return value
