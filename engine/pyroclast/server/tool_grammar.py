"""A grammar that leaves an answer free until it begins a call, and then holds it to the schema of
the tool's arguments: for tools that are marked strict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyroclast.errors import SamplingError
from pyroclast.sampling.schema import HELD_OPTIONS, check_enforced
from pyroclast.server.answers import parameters_of
from pyroclast.server.errors import HttpError

# Answer parser -> (what begins a call, what stands before the arguments, what stands after them).
_FORMS = {
    "hermes": ("<tool_call>", '<tool_call>\n{"name": "%s", "arguments": ', "}\n</tool_call>"),
    "phi": ("<|tool_call|>", '<|tool_call|>[{"name": "%s", "arguments": ', "}]<|/tool_call|>"),
    "llama3": ('{"name"', '{"name": "%s", "parameters": ', "}"),
    "mistral": ("[TOOL_CALLS]", "[TOOL_CALLS]%s[ARGS]", ""),
}


def strict_grammar(parser: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """SamplingParams.structured for tools of which one is strict; None where nothing can be held:
    no tool is strict, or the model writes calls in a format other than JSON."""
    form = _FORMS.get(parser)
    if form is None or not any(tool["function"].get("strict") for tool in tools):
        return None
    from llguidance import StructTag

    trigger, begin, end = form
    tags = [
        StructTag(
            trigger=trigger,
            begin=begin.replace("%s", tool["function"]["name"]),
            grammar=_schema(tool),
            end=end,
        )
        for tool in tools
        if _is_plain(tool["function"]["name"])
    ]
    return {"grammar": StructTag.to_grammar(tags, assume_special=False)} if tags else None


def held_parameters(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments; HttpError 400 for one that a grammar cannot hold."""
    schema = dict(parameters_of(tool))
    try:
        check_enforced(f"the schema of {tool['function']['name']}", schema)
    except SamplingError as error:
        raise HttpError(400, str(error), param="tools") from error
    return schema


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    is_strict = tool["function"].get("strict")
    schema: dict[str, Any] = held_parameters(tool) if is_strict else {"type": "object"}
    return schema | {"x-guidance": {**schema.get("x-guidance", {}), **HELD_OPTIONS}}


def _is_plain(name: str) -> bool:
    """A name that means itself inside JSON: OpenAI allows no others."""
    return all(c.isalnum() or c in "_-." for c in name)
