"""The ASGI application: from a request to its endpoint, and from every error to a reply."""

from __future__ import annotations

import asyncio
import html
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyroclast
from pyroclast.async_llm import AsyncLLM
from pyroclast.errors import RequestError
from pyroclast.server import info
from pyroclast.server.auth import is_allowed
from pyroclast.server.errors import HttpError, of_exception
from pyroclast.server.limits import Limits, read_body
from pyroclast.server.look_files import ROOT, is_page_path
from pyroclast.server.metrics import CONTENT_TYPE, Metrics
from pyroclast.server.routes import ROUTES, Route, openapi
from pyroclast.server.served import Served, ServedModels
from pyroclast.server.service import Exchange, JsonReply, id_headers, request_id

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from pyroclast.server.look import Look

log = logging.getLogger("pyroclast.server")

_MAX_LOGGED = 200  # characters of a path
_MAX_LOGGED_BODY = 4096


class App:
    """Serves `models`, and the room `look` where one is given.  draining: no new generation is
    begun."""

    def __init__(
        self,
        models: ServedModels,
        *,
        api_keys: Sequence[str],
        limits: Limits,
        metrics: Metrics,
        look: Look | None = None,
        log_bodies: bool = False,
    ) -> None:
        self.models, self.metrics = models, metrics
        self._keys, self._limits, self._look = api_keys, limits, look
        self._log_bodies = log_bodies
        self.draining = False
        self.n_active = 0  # requests that generate
        self._routes: dict[str, dict[str, Route]] = {}
        for route in (*ROUTES, *(look.routes() if look is not None else ())):
            self._routes.setdefault(route.path, {})[route.method] = route
        self._openapi = openapi(pyroclast.__version__)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send, self._look)
            return
        if scope["type"] != "http":
            return
        if self._look is not None and is_page_path(scope["path"]):
            await self._look.page(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        is_v1 = f"/v1{path}" in self._routes or path.startswith("/models/")
        if path not in self._routes and is_v1:
            path = f"/v1{path}"  # llama-server's endpoints go by both names
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        headers["x-request-id"] = request_id(headers)  # one id: of the log, the reply, a refusal
        route = self._routes.get(path, {}).get(scope["method"])
        if route is None or not route.generates:
            await self._answer(scope, receive, send, path, headers)
            return
        self.n_active += 1
        try:
            await self._answer(scope, receive, send, path, headers)
        finally:
            self.n_active -= 1

    async def _answer(
        self, scope: Any, receive: Any, send: Any, path: str, headers: Mapping[str, str]
    ) -> None:
        """Sends the reply of the endpoint, or the refusal."""
        start_s, status = time.perf_counter(), 200
        try:
            reply = await self._reply(scope["method"], path, headers, receive)
        except Exception as error:
            refused = of_exception(error)
            status = refused.status
            if status == 500:
                log.exception("%s %s failed", scope["method"], ascii(path)[:_MAX_LOGGED])
            reply = self._refusal(refused, path, headers)
        if status == 499:
            return
        await reply(scope, receive, send)
        took_ms = 1e3 * (time.perf_counter() - start_s)
        logged = ascii(path)[:_MAX_LOGGED]  # a path may hold line breaks
        log.info("%s %s %d %.1f ms", scope["method"], logged, status, took_ms)

    def _refusal(self, error: HttpError, path: str, headers: Mapping[str, str]) -> Any:
        self.metrics.count_refused(error.status)
        anthropic = path.startswith("/v1/messages")
        body = error.anthropic_body() if anthropic else error.body()
        ids = id_headers(request_id(headers))
        return JsonReply(body, error.status, ids | error.headers())

    async def _reply(self, method: str, path: str, headers: Mapping[str, str], receive: Any) -> Any:
        if not is_allowed(self._keys, path, headers):
            raise HttpError(401, "the API key is missing or wrong", code="invalid_api_key")
        if method in ("GET", "HEAD"):
            fixed = self._fixed(path)
            if fixed is not None:
                return fixed
        routes = self._routes.get(path)
        named = path.removeprefix("/v1/models/")
        if routes is None and not (named != path and method in ("GET", "HEAD")):
            raise HttpError(404, f"there is no {path:.200}; {self._remedy(path)}", code="not_found")
        if routes is None:
            return await info.model(self._exchange(b"", headers, receive), named)
        route = routes.get("GET" if method == "HEAD" else method)
        if route is None:
            allow = ", ".join(routes)
            raise HttpError(405, f"{path} takes {allow}, not {method:.20}", allow=allow)
        if route.generates and self.draining:
            raise HttpError(
                503, "the server is shutting down", code="shutting_down", retry_after_s=5
            )
        declared = headers.get("content-length")
        raw = await read_body(receive, self._limits, declared) if route.method == "POST" else b""
        exchange = self._exchange(raw, headers, receive)
        if self._log_bodies and raw:
            log.info("%s %s %s", exchange.request_id, path, ascii(raw[:_MAX_LOGGED_BODY]))
        if route.method == "POST":
            await exchange.read()
        return await route.endpoint(exchange)

    def _remedy(self, path: str) -> str:
        if self._look is None and (path == ROOT or path.startswith(f"{ROOT}/")):
            return "start the server with --look, or give create_app(look=...)"
        return "see /openapi.json"

    def _exchange(self, raw: bytes, headers: Mapping[str, str], receive: Any) -> Exchange:
        return Exchange(raw, headers, receive, self.models, self.metrics)

    def _fixed(self, path: str) -> Any:
        """Pages that take no exchange."""
        if path == "/openapi.json":
            return JsonReply(self._openapi)
        if path == "/metrics":
            return TextReply(self.metrics.text(), CONTENT_TYPE)
        if path in ("/", "/docs"):
            return TextReply(_page(self._openapi), "text/html; charset=utf-8")
        if path == "/ready":
            if self.draining:
                raise HttpError(
                    503, "the server is shutting down", code="shutting_down", retry_after_s=5
                )
            return JsonReply({"status": "ready"})
        return None


class TextReply:
    """An ASGI reply of bytes that are ready."""

    def __init__(self, body: bytes, media_type: str) -> None:
        self._body, self._media_type = body, media_type

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends it."""
        del scope, receive
        headers = [
            (b"content-type", self._media_type.encode()),
            (b"content-length", str(len(self._body)).encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


def create_app(
    llms: AsyncLLM | Mapping[str, AsyncLLM],
    *,
    api_keys: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
    parser: str | None = None,
    limits: Limits | None = None,
    look: Look | None = None,
    log_bodies: bool = False,
) -> ASGIApp:
    """An ASGI application that serves one model, or several by name, each with its adapters.

    parser: how answers are read (pyroclast.text.answers), where the chat template misleads.
    cors_origins: which web pages may ask; none by default.  look: the page that shows how a token
    is picked, and its data.  log_bodies: log lines hold the beginning of each body, and with it
    the prompt."""
    for llm in llms.values() if isinstance(llms, Mapping) else [llms]:
        _check_async(llm)
    if not isinstance(llms, Mapping):
        llms = {llms.llm.name: llms}
    served = [
        Served(name, llm, parser=parser, adapter=adapter)
        for name, llm in llms.items()
        for adapter in (None, *llm.llm.adapters)
    ]
    metrics = Metrics()
    metrics.before_scrape(lambda: _set_gauges(metrics, served))
    app = App(
        ServedModels(served),
        api_keys=api_keys,
        limits=limits or Limits(),
        metrics=metrics,
        look=look,
        log_bodies=log_bodies,
    )
    return _open_to(cors_origins, app) if cors_origins else app


def _check_async(llm: object) -> None:
    if not isinstance(llm, AsyncLLM):
        raise RequestError(
            f"create_app takes an AsyncLLM, or several by name, got {type(llm).__name__}; "
            "AsyncLLM.of(llm) wraps an LLM"
        )


def _open_to(origins: Sequence[str], app: App) -> ASGIApp:
    """The application, which web pages of these origins may ask."""
    from starlette.middleware.cors import CORSMiddleware

    # Outermost, so that a browser's preflight, which carries no key, is answered before the check.
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "x-ignored-fields"],
    )


def _set_gauges(metrics: Metrics, served: Sequence[Served]) -> None:
    for each in served:
        if each.adapter is not None:  # its requests run in its model's steps
            continue
        for name, value in each.llm.load.items():
            getattr(metrics, name).labels(each.name).set(value)
        counts = metrics.tokens(each.name)
        counts.n_disk_pages = each.llm.llm.n_disk_pages
        counts.n_preemptions = each.llm.n_preemptions


async def _lifespan(receive: Any, send: Any, look: Look | None) -> None:
    try:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and look is not None:
                await asyncio.to_thread(look.close)  # it waits for a step that is being run
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    except asyncio.CancelledError:  # a second signal; uvicorn would log it as a fault
        return


def _page(document: Mapping[str, Any]) -> bytes:
    """The endpoints as a page."""
    rows = [
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['summary'])}</td></tr>"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Pyroclast</title>"
        "<meta name=viewport content='width=device-width'><style>body{font:16px/1.5 system-ui;"
        "max-width:50em;margin:2em auto;padding:0 1em}td{padding:.2em 1em .2em 0}</style>"
        "<h1>Pyroclast</h1><p>An LLM server. The types of every body: "
        f"<a href=openapi.json>openapi.json</a>.</p><table>{''.join(rows)}</table></html>"
    ).encode()
