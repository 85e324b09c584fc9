"""Anthropic's messages, checked, as the chat endpoint has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, ValidationError, convert

from pyroclast.server.errors import HttpError, unreadable
from pyroclast.server.messages_in import ChatMessage, FunctionCall, ToolCallIn

# Claude Code puts a line of this name at the head of its system prompt, with a number that changes
# from call to call: it would keep any two prompts from sharing their beginning.
BILLING = "x-anthropic-billing-header:"


class Block(Struct):
    """A content block of a message; what is no text cannot be read."""

    type: str
    text: str | None = None
    title: str | None = None
    source: str | dict[str, Any] | None = None
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


def turns(
    system: str | list[Block] | None, messages: Sequence[AnthropicMessage]
) -> list[ChatMessage]:
    """The conversation with its system prompt."""
    found = [ChatMessage("system", text)] if (text := _system(system)) else []
    for i, message in enumerate(messages):
        found += _message(message, i)
    return found


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
        if block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "tool_use":
            arguments = json.dumps(block.input or {}, ensure_ascii=False)
            calls.append(ToolCallIn(FunctionCall(block.name or "", arguments), block.id))
        elif block.type == "tool_result":
            text = _texts(block.content, where)
            results.append(ChatMessage("tool", text, tool_call_id=block.tool_use_id))
        elif not _is_of_their_servers(block.type):
            texts.append(_text(block, where))
    turn = ChatMessage(message.role, "".join(texts), tool_calls=calls or None)
    turn.reasoning_content = "".join(thoughts) or None
    has_turn = texts or calls or thoughts or not results
    return [*results, turn] if has_turn else results


def _is_of_their_servers(kind: str) -> bool:
    """Blocks that only Anthropic's servers make and read: a conversation may hold some."""
    return kind.startswith(("redacted_", "server_", "mcp_")) or kind.endswith("_tool_result")


def _text(block: Block, where: str) -> str:
    """The text of a block that has some."""
    if block.type == "text":
        return block.text or ""
    if block.type == "document" and isinstance(block.source, dict):
        kind, data = block.source.get("type"), block.source.get("data")
        if kind == "text" and isinstance(data, str):
            return _titled(block.title, data)
        if kind == "content":
            return _titled(block.title, _texts(block.source.get("content"), where))
    if block.type == "search_result":
        return _titled(block.title, _texts(block.content, where))
    raise unreadable(where, block.type)


def _titled(title: str | None, text: str) -> str:
    return f"{title}\n{text}\n" if title else f"{text}\n"


def _texts(content: Any, where: str) -> str:
    """A text, or the texts of a list of blocks."""
    if content is None or isinstance(content, str):
        return content or ""
    try:
        blocks = convert(content, list[Block])
    except ValidationError as error:
        raise HttpError(400, f"{where}: {error}", param=where) from None
    return "".join(_text(block, f"{where}.content[{k}]") for k, block in enumerate(blocks))
