"""The files of the page `look`, from a table that is made once, under a strict policy.

They are open to everyone: the page itself asks for a key, for its data under /look/api/."""

from __future__ import annotations

import hashlib
from typing import Any

from pyroclast.lens.page import PageFile, code_files, page_files

ROOT = "/look"
# Everything comes from this server, and nothing is inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
}


def is_page_path(path: str) -> bool:
    """Whether a request is for a file of the page, not for its data."""
    return path == ROOT or (path.startswith(f"{ROOT}/") and not path.startswith(f"{ROOT}/api/"))


class LookFiles:
    """An ASGI application that sends the page's files, and nothing else."""

    def __init__(self) -> None:
        named = {f"{ROOT}/{name}": file for name, file in page_files().items()}
        code = {f"{ROOT}/code/{name}": file for name, file in code_files().items()}
        self._files = {path: (file, _tag(file)) for path, file in (named | code).items()}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends one file, a redirect to the folder, or a refusal."""
        del receive
        path, method = scope["path"], scope["method"]
        if method not in ("GET", "HEAD"):
            await _send(send, 405, {b"allow": b"GET, HEAD"})
        elif path == ROOT:  # relative, as all links of the page, so that a proxy may add a prefix
            await _send(send, 308, {b"location": b"look/"})
        elif path not in self._files:
            await _send(send, 404, {})
        else:
            file, tag = self._files[path]
            # no-cache: the browser asks each time, so that an upgrade shows at once.
            known = {b"etag": tag, b"cache-control": b"no-cache"}
            if tag in _asked_tags(scope):
                await _send(send, 304, known)
                return
            known[b"content-type"] = file.media_type.encode()
            await _send(send, 200, known, file.body, sends_body=method == "GET")


def _tag(file: PageFile) -> bytes:
    return f'"{hashlib.sha256(file.body).hexdigest()[:32]}"'.encode()


def _asked_tags(scope: Any) -> list[bytes]:
    given = dict(scope["headers"]).get(b"if-none-match", b"")
    return [tag.strip().removeprefix(b"W/") for tag in given.split(b",")]


async def _send(
    send: Any,
    status: int,
    headers: dict[bytes, bytes],
    body: bytes = b"",
    *,
    sends_body: bool = True,
) -> None:
    head = _ALWAYS | headers
    if status != 304:
        head[b"content-length"] = str(len(body)).encode()
    await send({"type": "http.response.start", "status": status, "headers": [*head.items()]})
    await send({"type": "http.response.body", "body": body if sends_body else b""})
