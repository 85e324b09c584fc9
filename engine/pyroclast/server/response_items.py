"""Items of the Responses API: those that come in, and those that go out, whole or as events."""

from __future__ import annotations

import itertools
from typing import Any

from pyroclast.server.errors import HttpError, unreadable
from pyroclast.server.messages_in import (
    TEXT_PARTS,
    ChatMessage,
    ContentPart,
    FunctionCall,
    ToolCallIn,
)
from pyroclast.server.sse import event
from pyroclast.text.answers.delta import Answer, AnswerDelta

MAX_ITEMS = 16_384


def input_messages(items: list[dict[str, Any]]) -> list[ChatMessage]:
    """Chat messages of input items.  Calls in a row belong to one assistant turn; items of kinds
    that only other servers make are ignored."""
    if len(items) > MAX_ITEMS:
        message = f"input must have at most {MAX_ITEMS} items, got {len(items)}"
        raise HttpError(400, message, param="input")
    messages: list[ChatMessage] = []
    for i, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append(_message(item, i))
        elif kind == "function_call":
            call = ToolCallIn(
                FunctionCall(_text_of(item, "name", i), _text_of(item, "arguments", i)),
                _text_of(item, "call_id", i),
            )
            if not messages or messages[-1].role != "assistant":
                messages.append(ChatMessage("assistant", ""))
            calls = messages[-1].tool_calls = messages[-1].tool_calls or []
            calls.append(call)
        elif kind == "function_call_output":
            output = _content(item.get("output"), f"input[{i}].output")
            messages.append(ChatMessage("tool", output, tool_call_id=_text_of(item, "call_id", i)))
        elif kind == "reasoning":
            if thoughts := _thoughts(item):  # Codex sends items without any
                messages.append(_thinking(thoughts))
        elif kind == "item_reference":
            raise HttpError(400, "this server keeps no items: send them whole", param=f"input[{i}]")
    return _joined(messages)


def _joined(messages: list[ChatMessage]) -> list[ChatMessage]:
    """Reasoning goes into the assistant turn that follows it, that of several items in a row as
    one text."""
    found: list[ChatMessage] = []
    thoughts: list[str] = []  # that wait for their turn
    for message in messages:
        if message.role == "assistant":
            if message.reasoning_content:
                thoughts.append(message.reasoning_content)
            if thoughts and not message.content and not message.tool_calls:
                continue
            message.reasoning_content = "".join(thoughts) or None
        elif thoughts:
            found.append(_thinking("".join(thoughts)))
        thoughts = []
        found.append(message)
    return [*found, _thinking("".join(thoughts))] if thoughts else found


def _thinking(thoughts: str) -> ChatMessage:
    """A turn of nothing but reasoning."""
    return ChatMessage("assistant", "", reasoning_content=thoughts)


def _message(item: dict[str, Any], i: int) -> ChatMessage:
    return ChatMessage(
        _text_of(item, "role", i), _content(item.get("content"), f"input[{i}].content")
    )


def _content(content: Any, where: str) -> str | list[ContentPart | str] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise HttpError(400, f"{where} must be a text or a list of parts", param=where)
    parts: list[ContentPart | str] = []
    for j, part in enumerate(content):
        kind, text = str(part.get("type")), part.get("text", part.get("refusal"))
        if kind not in TEXT_PARTS:
            raise unreadable(f"{where}[{j}]", kind)
        parts.append(ContentPart(kind, text if isinstance(text, str) else None))
    return parts


def _text_of(item: dict[str, Any], name: str, i: int) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise HttpError(400, f"input[{i}].{name} must be a text", param=f"input[{i}].{name}")
    return value


def _thoughts(item: dict[str, Any]) -> str:
    parts = item.get("content") or item.get("summary") or []
    found = [part.get("text", "") for part in parts if isinstance(part, dict)]
    return "".join(text for text in found if isinstance(text, str))


def items_json(answer: Answer, response_id: str, *, cut: bool = False) -> list[dict[str, Any]]:
    """The output items of a whole answer.  cut: the last one is not complete."""
    writer = ItemWriter(response_id)
    delta = AnswerDelta(answer.reasoning, answer.content)
    writer.write(delta)
    for i, call in enumerate(answer.tool_calls):
        writer.begin_call(i, call.id, call.name)
        writer.add("arguments", call.arguments)
    writer.end(cut=cut)
    return writer.items


class ItemWriter:
    """Deltas -> events; `items` holds the items that are done.  One item is open at a time."""

    def __init__(self, response_id: str) -> None:
        self.items: list[dict[str, Any]] = []
        self._suffix = response_id.removeprefix("resp_")
        self._numbers = itertools.count()
        self._item: dict[str, Any] | None = None
        self._text = ""
        self._call = -1

    def numbered(self, name: str, value: dict[str, Any]) -> bytes:
        """An event of the stream."""
        return event({"type": name, "sequence_number": next(self._numbers)} | value, name)

    def write(self, delta: AnswerDelta) -> bytes:
        """The events of one delta."""
        data = b""
        if delta.reasoning:
            data += self._begin("reasoning") + self.add("reasoning_text", delta.reasoning)
        if delta.content:
            data += self._begin("message") + self.add("output_text", delta.content)
        for piece in delta.tool_calls:
            if piece.index != self._call:
                data += self.begin_call(piece.index, piece.id or "", piece.name or "")
            if piece.arguments:
                data += self.add("arguments", piece.arguments)
        return data

    def begin_call(self, index: int, call_id: str, name: str) -> bytes:
        """Opens the item of a call."""
        self._call = index
        return self._close() + self._open(
            {"type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        )

    def add(self, kind: str, text: str) -> bytes:
        """More text of the open item."""
        self._text += text
        if kind == "arguments":
            return self._event("response.function_call_arguments.delta", {"delta": text})
        more: dict[str, Any] = {"content_index": 0, "delta": text}
        if kind == "output_text":
            more["logprobs"] = []
        return self._event(f"response.{kind}.delta", more)

    def end(self, *, cut: bool = False) -> bytes:
        """Closes the open item; an answer without any gets an empty message.  cut: the answer ended
        before that item was complete."""
        head = self._begin("message") if not self.items and self._item is None else b""
        return head + self._close("incomplete" if cut else "completed")

    def _begin(self, kind: str) -> bytes:
        if self._item is not None and self._item["type"] == kind:
            return b""
        data = self._close()
        if kind == "reasoning":
            data += self._open({"type": kind, "summary": [], "content": []})
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            data += self._open({"type": kind, "role": "assistant", "content": []})
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return data + self._event("response.content_part.added", {"content_index": 0, "part": part})

    def _open(self, item: dict[str, Any]) -> bytes:
        prefix = {"reasoning": "rs", "message": "msg", "function_call": "fc"}[item["type"]]
        item_id = f"{prefix}_{self._suffix}_{len(self.items)}"
        self._item = {"id": item_id, "status": "in_progress"} | item
        self._text = ""
        return self._output_item("added")

    def _close(self, status: str = "completed") -> bytes:
        item = self._item
        if item is None:
            return b""
        data, item["status"] = b"", status
        if item["type"] == "function_call":
            item["arguments"] = self._text
            done = {"arguments": self._text, "name": item["name"]}
            data += self._event("response.function_call_arguments.done", done)
        else:
            data += self._close_text(item)
        data += self._output_item("done")
        self.items.append(item)
        self._item = None
        return data

    def _close_text(self, item: dict[str, Any]) -> bytes:
        kind = "reasoning_text" if item["type"] == "reasoning" else "output_text"
        part: dict[str, Any] = {"type": kind, "text": self._text}
        more: dict[str, Any] = {}
        if kind == "output_text":
            part |= {"annotations": [], "logprobs": []}
            more = {"logprobs": []}
        item["content"] = [part]
        done = {"content_index": 0, "text": self._text} | more
        return self._event(f"response.{kind}.done", done) + self._event(
            "response.content_part.done", {"content_index": 0, "part": part}
        )

    def _output_item(self, what: str) -> bytes:
        value = {"output_index": len(self.items), "item": self._item}
        return self.numbered(f"response.output_item.{what}", value)

    def _event(self, name: str, value: dict[str, Any]) -> bytes:
        assert self._item is not None, "no item is open"
        head = {"item_id": self._item["id"], "output_index": len(self.items)}
        return self.numbered(name, head | value)
