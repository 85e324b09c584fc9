"""From the engine's chunks to what a chat answer consists of, one choice at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyroclast.text.answers.call_json import CallObject
from pyroclast.text.answers.delta import Answer, AnswerDelta, ToolCallDelta, call_id

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk, TokenLogprobs
    from pyroclast.text.answers.parser import AnswerParser
    from pyroclast.text.tokenizer import Tokenizer


class ForcedCallParser:
    """Reads an answer whose grammar is a tool's arguments (tool_choice names the tool)."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def feed(self, text: str) -> AnswerDelta:
        """Every character is part of the arguments."""
        if not text:
            return AnswerDelta()
        name, self._name = self._name, None
        piece = ToolCallDelta(0, call_id() if name else None, name, text)
        return AnswerDelta(tool_calls=[piece])

    def finish(self) -> AnswerDelta:
        """Nothing is held back."""
        return AnswerDelta()


class RequiredCallsParser:
    """Reads an answer whose grammar is a list of calls (tool_choice "required")."""

    def __init__(self) -> None:
        self._call: CallObject | None = None  # the one that is being read
        self._index = -1
        self._is_new = False
        self._blanks = ""  # held back, since those after the arguments are none of them

    def feed(self, text: str) -> AnswerDelta:
        """The next pieces of the calls."""
        found = AnswerDelta()
        while text:
            if self._call is None:
                _, brace, rest = text.partition("{")
                if not brace:
                    break
                text = brace + rest
                self._call, self._is_new, self._blanks = CallObject(), True, ""
                self._index += 1
            text = self._call.take(text)
            if piece := self._piece(self._call):
                found.tool_calls.append(piece)
            if self._call.ended:
                self._call = None
        return found

    def _piece(self, call: CallObject) -> ToolCallDelta | None:
        if call.name is None:
            return None
        given = self._blanks + call.new_arguments()
        arguments = given.rstrip()
        self._blanks = given[len(arguments) :]
        if self._is_new:
            self._is_new = False
            return ToolCallDelta(self._index, call_id(), call.name, arguments)
        return ToolCallDelta(self._index, arguments=arguments) if arguments else None

    def finish(self) -> AnswerDelta:
        """Nothing is held back."""
        return AnswerDelta()


def required_calls_schema(
    tools: Sequence[Mapping[str, Any]], *, one_only: bool = False
) -> dict[str, Any]:
    """The JSON schema of one or more calls of these tools."""
    each = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "parameters": _document(parameters_of(tool), f"tool:{i}"),
            },
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for i, tool in enumerate(tools)
    ]
    found = {"type": "array", "minItems": 1, "items": {"anyOf": each}}
    return found | {"maxItems": 1} if one_only else found


def _document(schema: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """A schema that stands inside another and is a document of its own: its references, such as
    #/$defs/City, begin at itself.  Before draft 2019-09 a $ref hides the $id beside it."""
    found = {**schema, "$id": uri}
    if "$ref" in found:
        found["allOf"] = [*found.get("allOf", ()), {"$ref": found.pop("$ref")}]
    return found


def parameters_of(tool: Mapping[str, Any]) -> Any:
    """The schema of a tool's arguments; any object where it has none."""
    return tool["function"].get("parameters") or {"type": "object"}


class ChoiceReader:
    """One choice: its deltas, the answer that they sum up to, and how it ended.

    max_calls: calls above this many are left out."""

    def __init__(
        self,
        parser: AnswerParser | ForcedCallParser | RequiredCallsParser,
        *,
        max_calls: int | None = None,
    ) -> None:
        self._parser, self._max_calls = parser, max_calls
        self.answer = Answer()
        self.finish_reason: str | None = None

    def read(self, chunk: Chunk) -> AnswerDelta:
        """What a chunk made certain; sets `finish_reason` with the last one."""
        delta = self._parser.feed(chunk.text)
        if chunk.finish_reason is not None:
            last = self._parser.finish()
            delta.reasoning += last.reasoning
            delta.content += last.content
            delta.tool_calls += last.tool_calls
        if self._max_calls is not None:
            delta.tool_calls = [x for x in delta.tool_calls if x.index < self._max_calls]
        self.answer.add(delta)
        if chunk.finish_reason is not None:
            called = bool(self.answer.tool_calls) and chunk.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else chunk.finish_reason
        return delta


def delta_json(delta: AnswerDelta) -> dict[str, Any]:
    """A chat chunk's delta.  Reasoning goes under both names that clients read."""
    found: dict[str, Any] = {}
    if delta.reasoning:
        found["reasoning_content"] = found["reasoning"] = delta.reasoning
    if delta.content:
        found["content"] = delta.content
    if delta.tool_calls:
        found["tool_calls"] = [_call_json(piece) for piece in delta.tool_calls]
    return found


def _call_json(piece: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": piece.arguments}
    if piece.id is None:
        return {"index": piece.index, "function": function}
    function = {"name": piece.name} | function
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def message_json(answer: Answer) -> dict[str, Any]:
    """A chat reply's message."""
    found: dict[str, Any] = {"role": "assistant", "content": answer.content}
    if answer.reasoning:
        found["reasoning_content"] = found["reasoning"] = answer.reasoning
    if answer.tool_calls:
        found["content"] = answer.content or None
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in answer.tool_calls
        ]
    return found


def logprobs_json(
    logprobs: Sequence[TokenLogprobs] | None, tokenizer: Tokenizer
) -> dict[str, Any] | None:
    """choices[].logprobs of the chat endpoint."""
    if logprobs is None:
        return None
    return {"content": [_token_json(each, tokenizer) for each in logprobs]}


def _token_json(each: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, Any]:
    top = [_one(token_id, logprob, tokenizer) for token_id, logprob in each.top]
    return _one(each.token_id, each.logprob, tokenizer) | {"top_logprobs": top}


def _one(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = token_bytes(tokenizer, token_id)
    return {
        "token": data.decode("utf-8", errors="replace"),
        "logprob": finite(logprob),
        "bytes": list(data),
    }


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """A token's bytes; none for a row of logits that only pads."""
    return tokenizer.token_bytes(token_id) if token_id < tokenizer.vocab_size else b""


def finite(logprob: float) -> float:
    """JSON has no infinity: OpenAI's -9999 stands for a token that cannot be."""
    return max(logprob, -9999.0)


def usage_json(n_prompt: int, n_completion: int, n_cached: int = 0) -> dict[str, Any]:
    """The usage object of chat and completions."""
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }
