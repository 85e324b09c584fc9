"""The seven compliance cases of Open Responses (openresponses.org).

Theirs leave sampling and the choice of a tool to the model; the demo model is too small to call a
tool of its own accord, so here it must, and the seed is fixed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import jsonschema
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import MODEL, RunningServer, serving

IMAGE = "data:image/png;base64,iVBORw0KGgo="
WEATHER_TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "maxLength": 20}},
        "required": ["location"],
        "additionalProperties": False,
    },
}


def message(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


TOOLS = {"tools": [WEATHER_TOOL], "tool_choice": "required", "parallel_tool_calls": False}
ASK_WEATHER = {"input": [message("user", "What's the weather like in San Francisco?")], **TOOLS}
CASES: dict[str, dict[str, Any]] = {
    "basic-response": {"input": [message("user", "Say hello in exactly 3 words.")]},
    "streaming-response": {"input": [message("user", "Count from 1 to 5.")], "stream": True},
    "system-prompt": {
        "input": [
            message("system", "You are a pirate. Always respond in pirate speak."),
            message("user", "Say hello."),
        ]
    },
    "tool-calling": ASK_WEATHER,
    "tool-calling-streaming": ASK_WEATHER | {"stream": True},
    "image-input": {
        "input": [
            message(
                "user",
                [
                    {"type": "input_text", "text": "What do you see in this image?"},
                    {"type": "input_image", "image_url": IMAGE},
                ],
            )
        ]
    },
    "multi-turn": {
        "input": [
            message("user", "My name is Alice."),
            message("assistant", "Hello Alice! Nice to meet you. How can I help you today?"),
            message("user", "What is my name?"),
        ]
    },
}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path())}) as running:
        yield running


@pytest.fixture(scope="module")
def answers(running: RunningServer) -> dict[str, httpx.Response]:
    """All seven are sent at once.  With some seeds a small model does not end its answer: another
    one is tried then."""

    def ask(case: dict[str, Any]) -> httpx.Response:
        for seed in range(3, 13):
            body = {"model": MODEL, "temperature": 0.7, "seed": seed, "max_output_tokens": 400}
            found = httpx.post(f"{running.url}/v1/responses", json=body | case, timeout=120)
            if '"incomplete"' not in found.text:
                break
        return found

    with ThreadPoolExecutor(len(CASES)) as pool:
        return dict(zip(CASES, pool.map(ask, CASES.values()), strict=True))


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, each under its own type as its name."""
    found = []
    for block in answer.text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines and lines != ["data: [DONE]"]:
            name, data = lines
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def response(answer: httpx.Response) -> dict[str, Any]:
    """The response, whole or as the stream's last event has it."""
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        found: dict[str, Any] = answer.json()
        return found
    last: dict[str, Any] = events(answer)[-1]
    assert last["type"] == "response.completed"
    return last["response"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("case", [case for case in CASES if case != "image-input"])
def test_the_response_is_completed_and_has_every_field(
    running: RunningServer, answers: dict[str, httpx.Response], case: str
) -> None:
    found = response(answers[case])
    assert found["status"] == "completed"
    assert found["output"]
    document = httpx.get(f"{running.url}/openapi.json", timeout=60).json()
    schema = document | {"$ref": "#/components/schemas/ResponseReply"}
    jsonschema.Draft202012Validator(schema).validate(found)
    assert len(document["components"]["schemas"]["ResponseReply"]["required"]) == 32


@pytest.mark.parametrize("case", ["tool-calling", "tool-calling-streaming"])
def test_a_tool_is_called(answers: dict[str, httpx.Response], case: str) -> None:
    calls = [item for item in response(answers[case])["output"] if item["type"] == "function_call"]
    assert calls
    for call in calls:
        assert call["name"] == "get_weather"
        assert json.loads(call["arguments"])["location"]


def test_a_streamed_call_has_its_events(answers: dict[str, httpx.Response]) -> None:
    found = events(answers["tool-calling-streaming"])
    kinds = [(each["type"], each.get("item", {}).get("type")) for each in found]
    order = [
        ("response.output_item.added", "function_call"),
        ("response.function_call_arguments.delta", None),
        ("response.function_call_arguments.done", None),
        ("response.output_item.done", "function_call"),
    ]
    positions = [kinds.index(kind) for kind in order]
    assert positions == sorted(positions)
    first = found[positions[0]]["item"]["id"]
    deltas = [
        each["delta"] for each in found if each["type"] == order[1][0] and each["item_id"] == first
    ]
    assert "".join(deltas) == found[positions[2]]["arguments"]


def test_streamed_text_has_its_events(answers: dict[str, httpx.Response]) -> None:
    found = events(answers["streaming-response"])
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    deltas = [each["delta"] for each in found if each["type"] == "response.output_text.delta"]
    [item] = response(answers["streaming-response"])["output"]
    assert "".join(deltas) == item["content"][0]["text"]


def test_an_image_is_refused_by_its_place(answers: dict[str, httpx.Response]) -> None:
    """The one case that an engine for text cannot meet."""
    answer = answers["image-input"]
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "unsupported_content"
    assert error["param"] == "input[0].content[1]"
    assert "input_image" in error["message"]
