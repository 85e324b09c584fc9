"""Anthropic's content blocks: whole, and as the events of a stream."""

from __future__ import annotations

import json
from typing import Any

from pyroclast.server.sse import event
from pyroclast.text.answers.delta import Answer, AnswerDelta

# Clients hand thinking blocks back with their signature, which only Anthropic's servers read.
SIGNATURE = "pyroclast"


def blocks_json(answer: Answer) -> list[dict[str, Any]]:
    """The blocks of a whole answer: thinking, text, calls."""
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": SIGNATURE})
    if answer.content or not answer.tool_calls:
        blocks.append({"type": "text", "text": answer.content})
    return blocks + [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
        for call in answer.tool_calls
    ]


def _input(arguments: str) -> Any:
    """The arguments as a value; text that is no JSON object, which a model may write, by itself."""
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


class BlockWriter:
    """Deltas -> events.  One block is open at a time, and each stops before the next starts."""

    def __init__(self) -> None:
        self._index = -1
        self._open: str | None = None  # "thinking", "text", or "tool_use"
        self._call = -1  # which call the open tool_use block is

    def write(self, delta: AnswerDelta) -> bytes:
        """The events of one delta."""
        data = b""
        if delta.reasoning:
            data += self._begin("thinking", {"thinking": "", "signature": ""})
            data += self._delta({"type": "thinking_delta", "thinking": delta.reasoning})
        if delta.content:
            data += self._begin("text", {"text": ""})
            data += self._delta({"type": "text_delta", "text": delta.content})
        for piece in delta.tool_calls:
            if piece.index != self._call:
                data += self._stop()
                self._call = piece.index
                block: dict[str, Any] = {"id": piece.id, "name": piece.name, "input": {}}
                data += self._begin("tool_use", block)
            if piece.arguments:
                data += self._delta({"type": "input_json_delta", "partial_json": piece.arguments})
        return data

    def end(self) -> bytes:
        """Stops the open block; an answer without any gets an empty one."""
        head = self._begin("text", {"text": ""}) if self._index < 0 else b""
        return head + self._stop()

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        if self._open == kind:
            return b""
        data = self._stop()
        self._open = kind
        self._index += 1
        start = {
            "type": "content_block_start",
            "index": self._index,
            "content_block": {"type": kind} | block,
        }
        return data + event(start, "content_block_start")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        value = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return event(value, "content_block_delta")

    def _stop(self) -> bytes:
        if self._open is None:
            return b""
        data = b""
        if self._open == "thinking":
            data = self._delta({"type": "signature_delta", "signature": SIGNATURE})
        self._open = None
        stop = {"type": "content_block_stop", "index": self._index}
        return data + event(stop, "content_block_stop")
