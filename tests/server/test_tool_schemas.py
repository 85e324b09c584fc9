"""Schemas of tools that must be called: those that refer to themselves, and those that cannot be
held."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import HELLO, MODEL, RunningServer, serving

NAMED = {"type": "function", "function": {"name": "f"}}


def deep(n: int) -> Any:
    """Lists in one another."""
    return [] if n == 0 else [deep(n - 1)]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path())}) as running:
        yield running


@pytest.fixture
def client(running: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


class Place(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    city: Literal["Paris", "Rome"]


class Trip(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    start: Place
    end: Place


class Stay(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    place: Place


@pytest.mark.parametrize("seed", range(3))
def test_required_calls_of_nested_models(client: openai.OpenAI, seed: int) -> None:
    """Each schema refers to its own #/$defs/Place."""
    models = {"Trip": Trip, "Stay": Stay}
    tools = [openai.pydantic_function_tool(model) for model in models.values()]
    assert "#/$defs/Place" in json.dumps(tools)
    message = (
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Plan a trip."}],
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=300,
            temperature=0.5,
            seed=seed,
        )
        .choices[0]
        .message
    )
    [call] = message.tool_calls or []
    assert call.type == "function"
    models[call.function.name].model_validate_json(call.function.arguments)


@pytest.mark.parametrize("draft", ["draft-07", None])
def test_a_required_calls_schema_may_be_a_reference(
    client: openai.OpenAI, draft: str | None
) -> None:
    """zod-to-json-schema writes these; a name may hold what a JSON pointer escapes."""
    schema = {
        "$ref": "#/definitions/a~1b~0",
        "definitions": {"a/b~": {"const": {"a": 1}}, "c": {"type": "object"}},
    }
    if draft is not None:
        schema["$schema"] = f"http://json-schema.org/{draft}/schema#"
    tool = {"name": "f", "parameters": schema}
    asked: Any = {
        "messages": HELLO,
        "tools": [{"type": "function", "function": tool}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 60,
    }
    answer = client.chat.completions.create(model=MODEL, **asked)
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"a": 1}


@pytest.mark.parametrize(
    ("choice", "schema", "said"),
    [
        ("required", {"minProperties": 3}, "the schema of f"),
        (NAMED, {"minProperties": 3}, "the schema of f"),
        ("required", {"examples": deep(58)}, "levels deep"),  # with the schema around it
        ("required", {"if": {}}, "if"),  # the grammar's compiler refuses these
        (NAMED, {"if": {}}, "if"),
    ],
)
def test_what_is_wrong_with_a_tool_is_not_the_formats_fault(
    client: openai.OpenAI, choice: Any, schema: Any, said: str
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    asked: Any = {"messages": HELLO, "tools": [tool], "tool_choice": choice}
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.chat.completions.create(model=MODEL, **asked)
    assert caught.value.param == "tools"
