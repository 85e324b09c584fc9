"""The tools of a chat request, and what its tool_choice makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct

from pyroclast.server.answers import (
    ChoiceReader,
    ForcedCallParser,
    RequiredCallsParser,
    required_calls_schema,
)
from pyroclast.server.errors import HttpError
from pyroclast.server.served import Served
from pyroclast.server.tool_grammar import held_parameters, strict_grammar

MAX_TOOLS = 512


class ToolFunction(Struct):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    """{"type": "function", "function": {...}}; tools of other types are ignored."""

    function: ToolFunction | None = None
    type: str = "function"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """tools: what the template gets.  must_call: "required".  named: the one function that must be
    called.  one_only: of several calls, the first counts."""

    tools: Sequence[dict[str, Any]] = ()
    must_call: bool = False
    named: Mapping[str, Any] | None = None
    one_only: bool = False

    def for_template(self) -> list[dict[str, Any]]:
        """The tools without what is for us alone."""
        return [
            {
                "type": "function",
                "function": {k: v for k, v in tool["function"].items() if k != "strict"},
            }
            for tool in self.tools
        ]

    def structure(self) -> dict[str, Any] | None:
        """SamplingParams.structured of a call that must be made."""
        if self.named is not None:
            return {"json": held_parameters(self.named)}
        if self.must_call and self.tools:
            for tool in self.tools:
                held_parameters(tool)
            return {"json": required_calls_schema(self.tools, one_only=self.one_only)}
        return None

    def strict_structure(self, parser: str) -> dict[str, Any] | None:
        """SamplingParams.structured that holds calls of strict tools, if any is made."""
        return strict_grammar(parser, self.tools)

    def reader(self, served: Served, prompt_ids: Sequence[int]) -> ChoiceReader:
        """A fresh reader for one choice."""
        if self.named is not None:
            return ChoiceReader(ForcedCallParser(self.named["function"]["name"]))
        if self.must_call and self.tools:
            return ChoiceReader(RequiredCallsParser())
        parser = served.answer_parser(prompt_ids, self.tools)
        return ChoiceReader(parser, max_calls=1 if self.one_only else None)


def tool_use(
    tools: Sequence[Tool] | None, choice: str | dict[str, Any] | None, parallel: bool | None
) -> ToolUse:
    """Of a request's `tools`, `tool_choice` and `parallel_tool_calls`."""
    known = [_tool(tool, i) for i, tool in enumerate(tools or ()) if tool.type == "function"]
    one_only = parallel is False
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        by_name = _by_name(known)
        known = [_find(by_name, _name(each)) for each in _list(allowed) if _is_function(each)]
        choice = allowed.get("mode") or "auto"
    if isinstance(choice, dict):
        return ToolUse(known, named=_find(_by_name(known), _name(choice)), one_only=one_only)
    if choice not in (None, "none", "auto", "required"):
        raise HttpError(
            400,
            f"tool_choice must be none, auto, required or a function, got {choice!r:.40}",
            param="tool_choice",
        )
    if choice == "required" and not known:
        raise HttpError(
            400, "tool_choice requires a call, but tools has no function", param="tool_choice"
        )
    if choice == "none" or not known:
        return ToolUse()
    return ToolUse(known, must_call=choice == "required", one_only=one_only)


def _tool(tool: Tool, i: int) -> dict[str, Any]:
    function = tool.function
    if function is None:
        raise HttpError(400, f"tools[{i}].function is missing", param=f"tools[{i}].function")
    names = ("name", "description", "parameters", "strict")
    given = {name: value for name in names if (value := getattr(function, name)) is not None}
    return {"type": "function", "function": given}


def _list(allowed: Any) -> list[Any]:
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise HttpError(
            400,
            f"tool_choice.tools must be a list of at most {MAX_TOOLS} tools",
            param="tool_choice",
        )
    return tools


def _is_function(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("type", "function") == "function"


def _name(choice: Any) -> Any:
    function = choice.get("function", choice) if isinstance(choice, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def _by_name(tools: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tools by name; of two with one name, the first."""
    return {tool["function"]["name"]: tool for tool in reversed(tools)}


def _find(by_name: Mapping[str, dict[str, Any]], name: Any) -> dict[str, Any]:
    if isinstance(name, str) and name in by_name:
        return by_name[name]
    raise HttpError(
        400, f"tool_choice names {name!r:.80}, which is none of the tools", param="tool_choice"
    )
