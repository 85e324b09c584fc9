"""OpenAI's chat messages, checked, in the form that chat templates expect."""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

from pyroclast.server.errors import unreadable
from pyroclast.server.limits import check_json_texts

TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class ContentPart(Struct):
    """A piece of a message; only text can be read."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Struct):
    """Which function, and its arguments as the text of a JSON object."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCallIn(Struct):
    """A call of an earlier assistant turn."""

    function: FunctionCall
    id: str | None = None
    type: str = "function"


class ChatMessage(Struct):
    """One turn of the conversation."""

    role: str
    content: str | list[ContentPart | str] | None = None
    name: str | None = None
    tool_calls: list[ToolCallIn] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


def for_template(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """developer becomes system; leading system messages become one, since many templates allow
    only one; parts become text; arguments become objects."""
    calls = [call for message in messages for call in message.tool_calls or ()]
    arguments = [call.function.arguments for call in calls]
    check_json_texts([text for text in arguments if isinstance(text, str)])
    turns = [_turn(message, i) for i, message in enumerate(messages)]
    n_system = 0
    while n_system < len(turns) and turns[n_system]["role"] == "system":
        n_system += 1
    if n_system > 1:
        joined = "\n\n".join(turn["content"] for turn in turns[:n_system] if turn["content"])
        turns[:n_system] = [{"role": "system", "content": joined}]
    return turns


def _turn(message: ChatMessage, i: int) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": _text(message.content, i)}
    if message.refusal and not turn["content"]:
        turn["content"] = message.refusal
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            turn[name] = value
    reasoning = message.reasoning_content or message.reasoning
    if reasoning is not None:
        turn["reasoning_content"] = turn["reasoning"] = reasoning
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    return turn


def _text(content: str | list[ContentPart | str] | None, i: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    pieces = []
    for j, part in enumerate(content):
        if isinstance(part, str):
            pieces.append(part)
        elif part.type in TEXT_PARTS:
            pieces.append(part.text or part.refusal or "")
        else:
            raise unreadable(f"messages[{i}].content[{j}]", part.type)
    return "".join(pieces)


def _call(call: ToolCallIn) -> dict[str, Any]:
    arguments = call.function.arguments
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = arguments  # what an earlier model wrote need not be JSON
        arguments = parsed if isinstance(parsed, dict) else arguments
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
