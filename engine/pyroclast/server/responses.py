"""POST /v1/responses: OpenAI's Responses API, without state: the whole conversation comes along."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, to_builtins

from pyroclast.server.chat import Chat, ChatRequest
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import JsonSchema, ResponseFormat
from pyroclast.server.messages_in import ChatMessage
from pyroclast.server.response_items import ItemWriter, input_messages, items_json
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import DONE
from pyroclast.server.tools_in import Tool, ToolFunction

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk
    from pyroclast.text.answers.delta import AnswerDelta


class ResponseTool(Struct):
    """A function; tools of other types, which run elsewhere, are ignored."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(Struct):
    """text.format: {"type": "text" | "json_object" | "json_schema", ...}."""

    type: str = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(Struct):
    """What the text must look like."""

    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(Struct):
    """How much to think."""

    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(Struct, kw_only=True):
    """The body of a responses request."""

    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stream: bool | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    truncation: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    max_tool_calls: int | None = None
    chat_template_kwargs: dict[str, Any] | UnsetType = UNSET
    cache_salt: str | None = None


async def responses(exchange: Exchange) -> Reply:
    """Answers, at once or as a stream."""
    body = exchange.body(ResponsesRequest)
    _refuse_state(body)
    chat = Chat(exchange, exchange.served(body.model), _as_chat(body))
    await chat.prepare()
    work = Responses(exchange, chat, body)
    if body.stream:
        return exchange.events(work.events(), chat.generation)
    return exchange.json(await exchange.unless_gone(work.whole()))


async def input_tokens(exchange: Exchange) -> Reply:
    """How many tokens an input has."""
    body = exchange.body(ResponsesRequest)
    _refuse_state(body)
    chat = Chat(exchange, exchange.served(body.model), _as_chat(body))
    return exchange.json({"object": "response.input_tokens", "input_tokens": await chat.count()})


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
        return self._ended(reader.finish_reason, items_json(reader.answer, self._id))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream's events, numbered."""
        reader, writer = self._chat.reader(), ItemWriter(self._id)
        for name in ("response.created", "response.in_progress"):
            yield writer.numbered(name, {"response": self._object("in_progress", [])})
        async for delta, chunk in self._chat.deltas(reader):
            self._count(delta, chunk)
            if data := writer.write(delta):
                yield data
        yield writer.end()
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
            "model": body.model or "default",
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


# Fields that need what this server does not keep, and what to do instead.
_NEED_STATE = {
    "previous_response_id": "this server keeps no responses: send the whole conversation as input",
    "conversation": "this server keeps no conversations: send the whole conversation as input",
    "prompt": "this server keeps no prompts: send the text as instructions and input",
    "background": "background responses are not supported",
}


def _refuse_state(body: ResponsesRequest) -> None:
    """The server keeps no responses: what needs them is refused, not ignored."""
    wrong = {name: text for name, text in _NEED_STATE.items() if getattr(body, name)}
    if body.truncation not in (None, "disabled"):
        wrong["truncation"] = "this server never cuts a prompt; truncation must be 'disabled'"
    if "message.output_text.logprobs" in (body.include or ()):
        wrong["include"] = "this endpoint gives no logprobs; /v1/chat/completions does"
    for name, text in wrong.items():
        raise HttpError(400, text, param=name, code="unsupported_parameter")


def _as_chat(body: ResponsesRequest) -> ChatRequest:
    """The same request as the chat endpoint has it."""
    messages: list[ChatMessage] = []
    if body.instructions:
        messages.append(ChatMessage("system", body.instructions))
    if isinstance(body.input, str):
        messages.append(ChatMessage("user", body.input))
    else:
        messages += input_messages(body.input)
    tools = [
        Tool(ToolFunction(tool.name, tool.description, tool.parameters, tool.strict))
        for tool in body.tools or ()
        if tool.type == "function" and tool.name
    ]
    kwargs = body.chat_template_kwargs
    return ChatRequest(
        messages=messages,
        model=body.model,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=body.seed,
        tools=tools or None,
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_format(body.text),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        chat_template_kwargs=kwargs if isinstance(kwargs, dict) else None,
        cache_salt=body.cache_salt,
    )


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    """{"type": "function", "name": ...} as the chat endpoint has it; other kinds leave the choice
    to the model."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice if choice.get("type") == "allowed_tools" else "auto"


def _format(text: TextOptions | None) -> ResponseFormat | None:
    form = None if text is None else text.format
    if form is None:
        return None
    return ResponseFormat(form.type, JsonSchema(form.schema, form.name, form.strict))
