"""POST /v1/responses: OpenAI's Responses API, without state: the whole conversation comes along."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from pyroclast.server.chat import Chat
from pyroclast.server.errors import HttpError
from pyroclast.server.response_items import ItemWriter, items_json
from pyroclast.server.responses_in import (
    ResponsesRequest,
    ResponseTool,
    TextFormat,
    as_chat,
    refuse_state,
)
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import DONE, failure

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk
    from pyroclast.text.answers.delta import AnswerDelta


async def responses(exchange: Exchange) -> Reply:
    """Answers, at once or as a stream."""
    body = exchange.body(ResponsesRequest)
    chat = _chat(exchange, body)
    await chat.prepare()
    work = Responses(exchange, chat, body)
    if body.stream:
        return exchange.events(work.events(), chat.generation)
    return exchange.json(await exchange.unless_gone(work.whole()))


async def input_tokens(exchange: Exchange) -> Reply:
    """How many tokens an input has."""
    body = exchange.body(ResponsesRequest)
    chat = _chat(exchange, body)
    return exchange.json({"object": "response.input_tokens", "input_tokens": await chat.count()})


def _chat(exchange: Exchange, body: ResponsesRequest) -> Chat:
    refuse_state(body)
    served = exchange.served(body.model)
    return Chat(exchange, served, as_chat(body), conversation="input", form="text.format")


class Responses:
    """One responses request on its way through the engine."""

    def __init__(self, exchange: Exchange, chat: Chat, body: ResponsesRequest) -> None:
        self._exchange, self._chat, self._body = exchange, chat, body
        self._id, self._created = f"resp_{exchange.request_id}", int(time.time())
        self._n_tokens = self._n_reasoning = 0

    async def whole(self) -> dict[str, Any]:
        """The reply that is not streamed."""
        reader = self._chat.reader()
        async for delta, chunk in self._chat.deltas(reader):
            self._count(delta, chunk)
        cut = reader.finish_reason == "length"
        return self._ended(reader.finish_reason, items_json(reader.answer, self._id, cut=cut))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream's events, numbered, to the end or to an error."""
        writer = ItemWriter(self._id)
        try:
            async for data in self._events(writer):
                yield data
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            yield self._failed(writer, failure(error)) + DONE

    def _failed(self, writer: ItemWriter, error: HttpError) -> bytes:
        """The two events of an error after the stream began, as OpenAI sends them."""
        about = {"code": error.code, "message": error.message, "param": error.param}
        response = self._object("failed", writer.items)
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        response["error"] = {"code": code, "message": error.message}
        return writer.numbered("error", about) + writer.numbered(
            "response.failed", {"response": response}
        )

    async def _events(self, writer: ItemWriter) -> AsyncGenerator[bytes, None]:
        reader = self._chat.reader()
        for name in ("response.created", "response.in_progress"):
            yield writer.numbered(name, {"response": self._object("in_progress", [])})
        async for delta, chunk in self._chat.deltas(reader):
            self._count(delta, chunk)
            if data := writer.write(delta):
                yield data
        yield writer.end(cut=reader.finish_reason == "length")
        response = self._ended(reader.finish_reason, writer.items)
        yield writer.numbered(f"response.{response['status']}", {"response": response}) + DONE

    def _count(self, delta: AnswerDelta, chunk: Chunk) -> None:
        self._n_tokens += len(chunk.token_ids)
        if delta.reasoning:
            self._n_reasoning += len(chunk.token_ids)

    def _ended(self, finish_reason: str | None, items: list[dict[str, Any]]) -> dict[str, Any]:
        cut = finish_reason == "length"
        response = self._object("incomplete" if cut else "completed", items)
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = int(time.time())
        response["usage"] = {
            "input_tokens": self._chat.n_prompt,
            "input_tokens_details": {"cached_tokens": self._chat.generation.n_cached},
            "output_tokens": self._n_tokens,
            "output_tokens_details": {"reasoning_tokens": self._n_reasoning},
            "total_tokens": self._chat.n_prompt + self._n_tokens,
        }
        return response

    def _object(self, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        """The response object, with every field that its schema requires."""
        body = self._body
        form = body.text.format if body.text and body.text.format else TextFormat()
        shown = {"type": form.type} if form.type != "json_schema" else to_builtins(form)
        return _FIXED_FIELDS | {
            "id": self._id,
            "created_at": self._created,
            "status": status,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": body.model or self._chat.served.name,
            "output": items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "presence_penalty": body.presence_penalty or 0.0,
            "frequency_penalty": body.frequency_penalty or 0.0,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": None if body.reasoning is None else to_builtins(body.reasoning),
            "safety_identifier": body.safety_identifier,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": shown},
            "tool_choice": body.tool_choice or "auto",
            "tools": [_tool_json(tool) for tool in body.tools or () if tool.type == "function"],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "user": body.user,
        }


# What this server has nothing to say about, and the schema requires all the same.
_FIXED_FIELDS: dict[str, Any] = {
    "object": "response",
    "completed_at": None,
    "background": False,
    "error": None,
    "incomplete_details": None,
    "previous_response_id": None,
    "service_tier": "default",
    "store": False,
    "truncation": "disabled",
    "usage": None,
}


def _tool_json(tool: ResponseTool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
