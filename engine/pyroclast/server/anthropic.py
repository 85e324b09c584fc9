"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from msgspec import Meta, Struct

from pyroclast.server.anthropic_blocks import BlockWriter, blocks_json
from pyroclast.server.chat import Chat, ChatRequest, Tool, ToolFunction
from pyroclast.server.errors import HttpError
from pyroclast.server.messages_in import ChatMessage, FunctionCall, ToolCallIn, for_template
from pyroclast.server.service import Exchange, Reply
from pyroclast.server.sse import event

# Claude Code puts a line of this name at the head of its system prompt, with a number that changes
# from call to call: it would keep any two prompts from sharing their beginning.
BILLING = "x-anthropic-billing-header:"


class Block(Struct):
    """A content block of a message; only text, tool and thinking blocks can be read."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Any] | None = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None


class AnthropicMessage(Struct):
    """One turn."""

    role: str
    content: str | list[Block]


class AnthropicTool(Struct):
    """A tool; those of Anthropic's own types, which run on its servers, are ignored."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None


class ToolChoice(Struct):
    """{"type": "auto" | "any" | "tool" | "none"}."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct):
    """{"type": "enabled" | "disabled"}."""

    type: str
    budget_tokens: int | None = None


class CountRequest(Struct, kw_only=True):
    """What count_tokens reads."""

    messages: Annotated[list[AnthropicMessage], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[AnthropicTool] | None = None
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
    served = exchange.served(body.model)
    tools = [
        {"type": "function", "function": {"name": tool.name, "parameters": tool.input_schema}}
        for tool in body.tools or ()
    ]
    template: dict[str, Any] = {"tools": tools} if tools else {}
    ids = await served.encode_chat(for_template(_turns(body)), template)
    return exchange.json({"input_tokens": len(ids)})


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
        n_cached = self._chat.generation.n_cached
        head["usage"] |= {"output_tokens": n_tokens, "cache_read_input_tokens": n_cached}
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
            "usage": {
                "output_tokens": n_tokens,
                "cache_read_input_tokens": self._chat.generation.n_cached,
            },
        }
        yield event(end, "message_delta") + event({"type": "message_stop"}, "message_stop")

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._body.model or "default",
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

    def _end(self, finish_reason: str | None, stop: str | int | None) -> dict[str, Any]:
        reasons = {"length": "max_tokens", "tool_calls": "tool_use"}
        if finish_reason == "stop" and stop in (self._body.stop_sequences or ()):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        reason = reasons.get(finish_reason or "", "end_turn")
        return {"stop_reason": reason, "stop_sequence": None}


def _as_chat(body: MessagesRequest) -> ChatRequest:
    """The same request as the chat endpoint has it."""
    tools = [
        Tool(ToolFunction(tool.name, tool.description, tool.input_schema))
        for tool in body.tools or ()
        if tool.type in (None, "custom")
    ]
    thinking = None if body.thinking is None else body.thinking.type != "disabled"
    return ChatRequest(
        messages=_turns(body),
        model=body.model,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=body.stop_sequences,
        tools=tools or None,
        tool_choice=_choice(body.tool_choice),
        enable_thinking=thinking,
    )


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


def _turns(body: CountRequest) -> list[ChatMessage]:
    turns = []
    system = _system(body.system)
    if system:
        turns.append(ChatMessage("system", system))
    for i, message in enumerate(body.messages):
        turns += _message(message, i)
    return turns


def _system(system: str | list[Block] | None) -> str:
    """The system prompt, without the line of the client's billing."""
    texts = [system] if isinstance(system, str) else [each.text or "" for each in system or ()]
    kept = [text.partition("\n")[2] if text.startswith(BILLING) else text for text in texts]
    return "\n\n".join(text for text in kept if text)


def _message(message: AnthropicMessage, i: int) -> list[ChatMessage]:
    """A turn; results of tools become turns of their own, before the rest of it."""
    if isinstance(message.content, str):
        return [ChatMessage(message.role, message.content)]
    results: list[ChatMessage] = []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCallIn] = []
    for j, block in enumerate(message.content):
        where = f"messages[{i}].content[{j}]"
        if block.type == "text":
            texts.append(block.text or "")
        elif block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "redacted_thinking":
            continue
        elif block.type == "tool_use":
            arguments = json.dumps(block.input or {}, ensure_ascii=False)
            calls.append(ToolCallIn(FunctionCall(block.name or "", arguments), block.id))
        elif block.type == "tool_result":
            text = _result(block.content, where)
            results.append(ChatMessage("tool", text, tool_call_id=block.tool_use_id))
        else:
            raise _unreadable(where, block.type)
    turn = ChatMessage(message.role, "".join(texts), tool_calls=calls or None)
    turn.reasoning_content = "".join(thoughts) or None
    has_turn = texts or calls or thoughts or not results
    return [*results, turn] if has_turn else results


def _result(content: str | list[Any] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for k, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise _unreadable(f"{where}.content[{k}]", str(kind))
        texts.append(str(part.get("text", "")))
    return "".join(texts)


def _unreadable(where: str, kind: str) -> HttpError:
    return HttpError(
        400,
        f"this server reads text only; {where} is of type {kind!r:.40}",
        param=where,
        code="unsupported_content",
    )
