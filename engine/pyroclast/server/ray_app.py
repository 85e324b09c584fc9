"""The server as a Ray Serve application: several copies of a model, on one machine or many.

    serve run pyroclast.server.ray_app:build_app model=smollm2-135m-instruct replicas=2

A `Front` reads each request and hands it to a `Replica`, which answers with the application of
`pyroclast serve`.  Ray's PrefixCacheAffinityRouter chooses the replica: it remembers which one got
which text, and prefers the one that has seen the beginning of this prompt, unless that one is much
busier.  So Ray's proxy may stand in front without knowing what a prompt is.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from pyroclast.async_llm import AsyncLLM
from pyroclast.errors import RequestError
from pyroclast.server.app import TextReply, create_app
from pyroclast.server.auth import read_keys
from pyroclast.server.bridge import Call, Message, answer
from pyroclast.server.errors import HttpError
from pyroclast.server.limits import Limits, read_body
from pyroclast.server.metrics import CONTENT_TYPE, merged
from pyroclast.server.prefix_text import prefix_text
from pyroclast.server.ray_settings import Settings, from_environment, read_settings
from pyroclast.server.service import JsonReply

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("pyroclast.server")

REPLICA_HEADER = "x-pyroclast-replica"
# Above what an engine takes, so that a full queue is refused by it, as everywhere, with a 429.
_MAX_ONGOING = 4096
_SCRAPE_S = 10.0
_ADDED_BY_RAY = b"x-request-id"
_SWITCH_S = 5e-4  # the thread that runs the steps must not wait long for one that answers


def build_app(args: Mapping[str, Any]) -> Any:
    """The application, for `serve.run` and for `serve run ... model=... replicas=2`.  RequestError
    for an argument that there is not, or that is out of range."""
    serve, router = _ray()
    settings = read_settings(args)
    keys = read_keys(settings.api_key_file)  # here: a node without them would ask for none
    replicas = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=settings.replicas,
        max_ongoing_requests=_MAX_ONGOING,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        request_router_config={
            "request_router_class": router,
            "request_router_kwargs": {
                "imbalanced_threshold": settings.max_imbalance,
                "do_eviction": True,  # without it, the router's memory grows without end
            },
        },
    )
    front = serve.deployment(
        Front,
        name="Front",
        num_replicas=settings.fronts,
        max_ongoing_requests=_MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},  # it computes nothing, and a small machine has no spare
    )
    return front.bind(replicas.bind(settings, keys))


def app_from_environment(args: Mapping[str, Any]) -> Any:
    """`build_app` with PYROCLAST_RAY_MODEL, PYROCLAST_RAY_REPLICAS and so on where `args` has
    nothing."""
    return build_app(from_environment() | dict(args))


def _ray() -> tuple[Any, Any]:
    """Ray's `serve`, and its router by prefix."""
    try:
        from ray import serve
    except ImportError as error:
        raise RequestError(
            f"pyroclast.server.ray_app needs the extra [ray] ({error}): "
            "`pip install 'pyroclast-lm[server,ray]'`"
        ) from error
    try:
        from ray.serve.llm.request_router import PrefixCacheAffinityRouter
    except ImportError:
        # Its public name comes with ray[llm] only, which brings vLLM; the class needs none of it.
        from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import (
            PrefixCacheAffinityRouter,
        )
    return serve, PrefixCacheAffinityRouter


@dataclass(frozen=True, slots=True)
class Routed:
    """A call on its way to a replica.  prompt: what the router reads."""

    prompt: str
    call: Call


class Replica:
    """One copy of the model.  Ray makes it in a process of its own."""

    def __init__(self, settings: Settings, keys: Sequence[str]) -> None:
        from ray import serve

        sys.setswitchinterval(_SWITCH_S)
        self._tag: str = serve.get_replica_context().replica_tag
        llm = AsyncLLM(
            settings.model,
            device="cuda" if settings.gpus else "cpu",
            compute=settings.compute,
            kernels=settings.kernels,
            threads=None if settings.gpus else settings.cpus,
            kv_dtype=settings.kv_dtype,
            max_seqs=settings.max_seqs,
            embeddings=settings.embeddings,
            prefix_cache=settings.prefix_cache,
            speculation=settings.speculation,
            draft=settings.draft,
            adapters=settings.adapters,
            max_queued_requests=settings.max_queued_requests,
        )
        name = settings.served_model_name or Path(llm.llm.name).name
        self._app: Any = create_app(
            {name: llm},
            api_keys=keys,
            cors_origins=settings.cors_origins,
            parser=settings.answer_parser,
        )

    async def answer(self, routed: Routed) -> AsyncGenerator[list[Message], None]:
        """The messages of the reply; closing it ends the request."""
        mark = (REPLICA_HEADER.encode(), self._tag.encode())
        async with aclosing(answer(self._app, routed.call)) as found:
            async for messages in found:
                for message in messages:
                    if message["type"] == "http.response.start":
                        head = [each for each in message["headers"] if each[0] != _ADDED_BY_RAY]
                        message["headers"] = [*head, mark]
                yield messages

    async def whole(self, call: Call) -> tuple[str, list[Message]]:
        """Which replica this is, and its whole reply."""
        return self._tag, [m async for messages in answer(self._app, call) for m in messages]


class Front:
    """What Ray's proxy calls.  replicas: Ray's handle of them."""

    def __init__(self, replicas: Any) -> None:
        self._replicas = replicas
        self._answer = replicas.options(method_name="answer", stream=True)
        self._limits = Limits()

    async def __call__(self, request: Request) -> Response:
        """Any request."""
        del request  # what is returned gets its parts
        return _AsgiReply(self._reply)

    async def _reply(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        has_begun = False
        try:
            declared = dict(scope["headers"]).get(b"content-length")
            body = await read_body(
                receive, self._limits, None if declared is None else declared.decode("latin-1")
            )
            call = Call.of(scope, body)
            found = self._metrics(call) if call.path == "/metrics" else self._routed(call)
            async with aclosing(found):
                async for messages in found:
                    for message in messages:
                        await send(message)
                        has_begun = True
        except HttpError as error:
            await JsonReply(error.body(), error.status, error.headers())(scope, receive, send)
        except (TimeoutError, _lost()) as error:
            if has_begun:
                raise  # Ray closes the connection
            log.warning("a replica is lost: %s", error)  # with addresses, which no client needs
            kind = type(error).__name__
            lost = HttpError(503, f"the replica is gone ({kind}); try again", retry_after_s=1)
            await JsonReply(lost.body(), lost.status, lost.headers())(scope, receive, send)

    async def _routed(self, call: Call) -> AsyncGenerator[list[Message], None]:
        """The reply of the replica that the router chooses; by its load where it finds no text
        among the unnamed arguments."""
        text = prefix_text(call.body)
        if text is None:
            messages = self._answer.remote(routed=Routed("", call))
        else:
            messages = self._answer.remote(Routed(text, call))
        try:
            async for each in messages:
                yield each
        finally:
            messages.cancel()  # nothing, where it has ended

    async def _metrics(self, call: Call) -> AsyncGenerator[list[Message], None]:
        """The metrics of all replicas, each with its label; or a refusal."""
        broadcast = self._replicas.broadcast("whole", call)
        replies = dict(await broadcast.results_async(timeout_s=_SCRAPE_S))
        refused = next((each for each in replies.values() if each[0]["status"] != 200), None)
        if refused is not None:
            yield refused
            return
        texts = {
            tag: b"".join(message.get("body", b"") for message in messages)
            for tag, messages in replies.items()
        }
        reply = TextReply(merged(texts, "replica"), CONTENT_TYPE)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await reply(None, None, send)
        yield sent


class _AsgiReply(Response):
    """A reply that Ray sends by calling it."""

    def __init__(self, reply: Any) -> None:
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._reply(scope, receive, send)


def _lost() -> type[Exception]:
    """What Ray raises where a replica is gone."""
    from ray.exceptions import RayError

    found: type[Exception] = RayError
    return found
