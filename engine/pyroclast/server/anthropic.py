"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from msgspec import Meta, Struct

from pyroclast.server.anthropic_blocks import BlockWriter, blocks_json
from pyroclast.server.anthropic_in import AnthropicMessage, Block, turns
from pyroclast.server.chat import Chat, ChatRequest
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import JsonSchema, ResponseFormat
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import event
from pyroclast.server.tools_in import MAX_TOOLS, Tool, ToolFunction


class AnthropicTool(Struct):
    """A tool; those of Anthropic's own types, which run on its servers, are ignored."""

    name: str | None = None
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None


class ToolChoice(Struct):
    """{"type": "auto" | "any" | "tool" | "none"}."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    """{"type": "enabled" | "disabled"}."""

    type: str
    budget_tokens: int | None = None


class OutputFormat(Struct):
    """{"type": "json_schema", "schema": {...}}."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(Struct):
    """What the text must look like, and how much to think about it."""

    format: OutputFormat | None = None
    effort: str | None = None


class CountRequest(Struct, kw_only=True):
    """What count_tokens reads."""

    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: Annotated[list[AnthropicTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """The body of a messages request."""

    max_tokens: Annotated[int, Meta(ge=1)]
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    cache_salt: str | None = None
    priority: int | None = None
    output_format: OutputFormat | None = None  # its name before it moved into output_config


async def messages(exchange: Exchange) -> Reply:
    """Answers a conversation, at once or as a stream."""
    body = exchange.body(MessagesRequest)
    chat = Chat(exchange, exchange.served(body.model), _as_chat(body))
    await chat.prepare()
    work = Messages(exchange, chat, body)
    if body.stream:
        return exchange.events(work.events(), chat.generation, error_name="error")
    return exchange.json(await exchange.unless_gone(work.whole()))


async def count_tokens(exchange: Exchange) -> Reply:
    """How many tokens a conversation has."""
    body = exchange.body(CountRequest)
    chat = Chat(exchange, exchange.served(body.model), _conversation(body))
    return exchange.json({"input_tokens": await chat.count()})


class Messages:
    """One messages request on its way through the engine."""

    def __init__(self, exchange: Exchange, chat: Chat, body: MessagesRequest) -> None:
        self._chat, self._body = chat, body
        self._id = f"msg_{exchange.request_id}"

    async def whole(self) -> dict[str, Any]:
        """The reply that is not streamed."""
        reader, n_tokens, stop = self._chat.reader(), 0, None
        async for _, chunk in self._chat.deltas(reader):
            n_tokens += len(chunk.token_ids)
            if chunk.completion is not None:
                stop = chunk.completion.stop_reason
        head = self._head()
        head["content"] = blocks_json(reader.answer)
        head |= self._end(reader.finish_reason, stop)
        head["usage"] |= self._usage(n_tokens)
        return head

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The stream's events: each block begins, grows and stops before the next begins."""
        yield event({"type": "message_start", "message": self._head()}, "message_start")
        reader, writer, n_tokens, stop = self._chat.reader(), BlockWriter(), 0, None
        async for delta, chunk in self._chat.deltas(reader):
            n_tokens += len(chunk.token_ids)
            if chunk.completion is not None:
                stop = chunk.completion.stop_reason
            if data := writer.write(delta):
                yield data
        yield writer.end()
        end = {
            "type": "message_delta",
            "delta": self._end(reader.finish_reason, stop),
            "usage": self._usage(n_tokens),
        }
        yield event(end, "message_delta") + event({"type": "message_stop"}, "message_stop")

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._body.model or self._chat.served.name,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": self._chat.n_prompt,
                "output_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        }

    def _usage(self, n_tokens: int) -> dict[str, int]:
        """The final counts.  The prompt's tokens are those that were read and those that were
        cached: Anthropic's clients add them up."""
        n_cached = self._chat.generation.n_cached
        return {
            "input_tokens": self._chat.n_prompt - n_cached,
            "cache_read_input_tokens": n_cached,
            "output_tokens": n_tokens,
        }

    def _end(self, finish_reason: str | None, stop: str | int | None) -> dict[str, Any]:
        reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
        if finish_reason == "stop" and stop in (self._body.stop_sequences or ()):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        reason = reasons.get(finish_reason or "", "end_turn")
        return {"stop_reason": reason, "stop_sequence": None}


def _conversation(body: CountRequest) -> ChatRequest:
    """What makes the prompt, as the chat endpoint has it."""
    tools = [
        Tool(ToolFunction(tool.name, tool.description, tool.input_schema, tool.strict))
        for tool in body.tools or ()
        if tool.type in (None, "custom") and tool.name
    ]
    messages = turns(body.system, body.messages)
    last = messages[-1]
    return ChatRequest(
        messages=messages,
        model=body.model,
        tools=tools or None,
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=not (body.tool_choice and body.tool_choice.disable_parallel_tool_use),
        enable_thinking=None if body.thinking is None else body.thinking.type != "disabled",
        # An assistant's turn at the end is the beginning of the answer.
        continue_final_message=len(messages) > 1
        and last.role == "assistant"
        and not last.tool_calls,
    )


def _as_chat(body: MessagesRequest) -> ChatRequest:
    """The same request as the chat endpoint has it."""
    chat = _conversation(body)
    chat.max_tokens = body.max_tokens
    chat.temperature, chat.top_p, chat.top_k = body.temperature, body.top_p, body.top_k
    chat.stop, chat.cache_salt = body.stop_sequences, body.cache_salt
    config = body.output_config or OutputConfig()
    chat.reasoning_effort = config.effort
    form = config.format or body.output_format
    if form is not None:
        chat.response_format = ResponseFormat(form.type, JsonSchema(form.schema))
    return chat


def _choice(choice: ToolChoice | None) -> str | dict[str, Any] | None:
    if choice is None:
        return None
    if choice.type == "tool":
        return {"type": "function", "function": {"name": choice.name}}
    names = {"any": "required", "auto": "auto", "none": "none"}
    if choice.type not in names:
        raise HttpError(
            400,
            f"tool_choice.type must be auto, any, tool or none, got {choice.type!r:.40}",
            param="tool_choice.type",
        )
    return names[choice.type]
