"""One HTTP request and its reply: what every endpoint is handed."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pyroclast.server.errors import HttpError, of_validation
from pyroclast.server.fields import blamed, unknown_fields
from pyroclast.server.generation import Generation
from pyroclast.server.metrics import Metrics
from pyroclast.server.served import Served, ServedModels
from pyroclast.server.sse import EventStream, Receive, event, unless_gone

if TYPE_CHECKING:
    from pyroclast.sampling.params import SamplingParams

T = TypeVar("T", bound=msgspec.Struct)
Reply = Any  # an ASGI application: (scope, receive, send)

_LONG_BYTES = 1 << 16  # each float of a body calls Python: many would hold up the streams of others
_MAX_EXACT = 2.0**53  # above it, not every integer is a float


def _number(text: str) -> float | int:
    """4.0 is an integer to JSON Schema and to many clients; msgspec would call it a float."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is out of range")
    return int(value) if value.is_integer() and abs(value) < _MAX_EXACT else value


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(float_hook=_number).decode


class JsonReply:
    """An ASGI reply of one JSON value."""

    def __init__(self, value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        self._body, self._status, self._headers = _encode(value), status, headers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends it."""
        del scope, receive
        head = {"content-type": "application/json", "content-length": str(len(self._body))}
        head |= self._headers
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.items()]
        await send({"type": "http.response.start", "status": self._status, "headers": raw})
        await send({"type": "http.response.body", "body": self._body})


class Exchange:
    """A request that was read, and how to reply to it."""

    def __init__(
        self,
        raw: bytes,
        headers: Mapping[str, str],
        receive: Receive,
        models: ServedModels,
        metrics: Metrics,
    ) -> None:
        self._raw, self._headers, self._receive = raw, headers, receive
        self._value: Any = None
        self.models, self.metrics = models, metrics
        self.request_id = request_id(headers)
        self.priority = "interactive"
        self._reply_headers = id_headers(self.request_id)

    async def read(self) -> None:
        """Decodes the body, a long one in a thread; HttpError 400 for what is no JSON."""
        raw, self._raw = self._raw or b"null", b""
        try:
            if len(raw) < _LONG_BYTES:
                self._value = _decode(raw)
            else:
                self._value = await asyncio.to_thread(_decode, raw)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise HttpError(400, f"the body is not JSON: {error}") from None

    @property
    def has_body(self) -> bool:
        """Whether a body came with the request."""
        return self._value is not None

    def body(self, kind: type[T]) -> T:
        """The body as a value of `kind`; HttpError 400 that names the field which is wrong.
        Fields that the type does not have are listed in a header of the reply."""
        value = self._value
        if not isinstance(value, dict):
            raise HttpError(400, "the body must be a JSON object")
        try:
            found = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise of_validation(error) from None
        except RecursionError:
            raise HttpError(400, "the body is nested too deeply") from None
        if (getattr(found, "priority", None) or 0) > 0:  # vLLM's: lower goes first
            self.priority = "batch"
        if unknown := unknown_fields(value, kind):
            listed = ",".join(
                name for name in unknown[:50] if name.isascii() and name.isprintable()
            )
            # A header's value must not begin or end with a space.
            self._reply_headers["x-ignored-fields"] = listed[:1000].strip()
        return found

    def served(self, model: str | None) -> Served:
        """The model that the request names."""
        return self.models.find(model)

    def header(self, name: str) -> str | None:
        """A header of the request, by its name in lower case."""
        return self._headers.get(name)

    def json(self, value: Any, status: int = 200) -> Reply:
        """A reply of one JSON value."""
        return JsonReply(value, status, self._reply_headers)

    def events(
        self,
        events: AsyncGenerator[bytes, None],
        generation: Generation,
        *,
        error_name: str | None = None,
    ) -> Reply:
        """A reply of events, which ends the generation with it.  error_name: what the protocol
        calls its error event."""

        def on_error(error: HttpError) -> bytes:
            if error_name is None:
                return event(error.body())
            return event(error.anthropic_body(), error_name)

        return EventStream(
            events, headers=self._reply_headers, on_error=on_error, on_end=generation.aclose
        )

    async def unless_gone(self, work: Awaitable[Any]) -> Any:
        """The result of `work`, which ends when the client goes away."""
        return await unless_gone(self._receive, work)

    async def generate(
        self,
        served: Served,
        prompts: Sequence[list[int]],
        params: Sequence[SamplingParams],
        *,
        structure: str = "response_format",
        n_answered: int = 0,
    ) -> Generation:
        """Queues the prompts; HttpError for what is wrong with them, and 429 where the queue is
        full.  structure: the field that asks for one.  n_answered: as `LLM.stream`."""
        n_requests = sum(each.n for each in params)
        if n_requests > served.llm.max_queued_requests:
            raise HttpError(
                400,
                f"{n_requests} choices never fit into a queue of "
                f"{served.llm.max_queued_requests}; ask for fewer at once",
            )
        streams = [
            served.llm.stream(
                ids,
                each,
                adapter=served.adapter,
                priority=self.priority,
                n_answered=n_answered,
            )
            for ids, each in zip(prompts, params, strict=True)
        ]
        generation = Generation(streams, [each.n for each in params], self.metrics, served.name)
        try:
            await generation.start()
        except HttpError as error:  # a grammar, or token ids, which are looked at only now
            error.param = error.param or blamed(error.message, structure)
            raise
        return generation


def request_id(headers: Mapping[str, str]) -> str:
    """The client's id where it is harmless, else a fresh one."""
    given = headers.get("x-request-id")
    if given and len(given) <= 128 and all(c.isalnum() or c in "-_.:" for c in given):
        return given
    return secrets.token_hex(16)


def id_headers(request_id: str) -> dict[str, str]:
    """The headers of a reply that name its request: OpenAI's clients read the first, Anthropic's
    the second."""
    return {"x-request-id": request_id, "request-id": request_id}
