"""Anthropic's own Python client against the server, and what Claude Code depends on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import httpx
import pydantic
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.server.anthropic_blocks import BlockWriter
from pyroclast.text.answers.delta import AnswerDelta, ToolCallDelta
from server_at import HELLO, MODEL, WEATHER, RunningServer, serving

TOOLS = [
    {
        "name": "weather",
        "description": "The weather of a city.",
        "input_schema": WEATHER,
    }
]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving({MODEL: AsyncLLM(demo_path())}) as running:
        yield running


@pytest.fixture
def client(running: RunningServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_message(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model=MODEL,
        max_tokens=24,
        messages=HELLO,
        system="Be brief.",
        extra_body={"temperature": 0},
    )
    assert answer.role == "assistant"
    assert answer.content[0].type == "text"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0


def test_a_stream_says_what_the_whole_message_says(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 24,
        "messages": HELLO,
        "extra_body": {"temperature": 0},
    }
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text  # type: ignore[union-attr]
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_tool_is_called(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 60,
        "messages": [{"role": "user", "content": "How is the weather in Rome?"}],
        "tools": TOOLS,
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    answer = client.messages.create(**asked)
    assert answer.stop_reason == "tool_use"
    [call] = answer.content
    assert call.type == "tool_use"
    assert call.input["city"] in ("Paris", "Rome")
    with client.messages.stream(**asked) as stream:
        [streamed] = stream.get_final_message().content
    assert streamed.type == "tool_use"
    assert streamed.input["city"] in ("Paris", "Rome")  # type: ignore[index]


def test_a_tool_loop(client: anthropic.Anthropic) -> None:
    """The result of a call, and thoughts, go back into the conversation."""
    answer = client.messages.create(
        model=MODEL,
        max_tokens=8,
        tools=TOOLS,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "The weather in Rome?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "Sunny."}],
                    },
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
    )
    assert answer.usage.input_tokens > 20


def test_stop_sequences_are_named(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(
        model=MODEL, max_tokens=24, messages=HELLO, extra_body={"temperature": 0}
    )
    word = whole.content[0].text.split()[1]  # type: ignore[union-attr]
    cut = client.messages.create(
        model=MODEL,
        max_tokens=24,
        messages=HELLO,
        extra_body={"temperature": 0},
        stop_sequences=[word],
    )
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)


def test_counting_tokens_agrees_with_the_usage(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=HELLO, system="Be brief.")
    answer = client.messages.create(model=MODEL, max_tokens=1, messages=HELLO, system="Be brief.")
    cached = answer.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == answer.usage.input_tokens + cached


def test_cached_tokens_are_no_input_tokens(client: anthropic.Anthropic) -> None:
    """Anthropic's total is input_tokens + cache_read_input_tokens, in a stream as well."""
    messages: Any = [{"role": "user", "content": "Count with me: one, two, three. " * 8}]
    n_prompt = client.messages.count_tokens(model=MODEL, messages=messages).input_tokens
    asked: Any = {"model": MODEL, "max_tokens": 1, "messages": messages}
    client.messages.create(**asked)
    whole = client.messages.create(**asked).usage
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message().usage
    for usage in (whole, streamed):
        assert usage.cache_read_input_tokens
        assert usage.input_tokens == n_prompt - usage.cache_read_input_tokens


def test_the_billing_line_does_not_reach_the_prompt(client: anthropic.Anthropic) -> None:
    counts = {
        client.messages.count_tokens(model=MODEL, messages=HELLO, system=system).input_tokens
        for system in (
            "x-anthropic-billing-header: cc_version=1; cch=abc;\nBe brief.",
            "x-anthropic-billing-header: cc_version=1; cch=a-much-longer-value;\nBe brief.",
            "Be brief.",
        )
    }
    assert len(counts) == 1


def test_errors_have_anthropics_shape(running: RunningServer) -> None:
    for body in ({}, {"max_tokens": 5, "messages": []}, {"max_tokens": 0, "messages": HELLO}):
        answer = httpx.post(f"{running.url}/v1/messages", json=body, timeout=60)
        assert answer.status_code == 400
        found = answer.json()
        assert found["type"] == "error"
        assert found["error"]["type"] == "invalid_request_error"
    image = {"type": "image", "source": {"type": "url", "url": "http://x"}}
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": [image]}]}
    answer = httpx.post(f"{running.url}/v1/messages", json=body, timeout=60)
    assert answer.status_code == 400
    assert "messages[0].content[0]" in answer.json()["error"]["message"]


def test_blocks_open_and_close_one_after_the_other() -> None:
    writer = BlockWriter()
    data = writer.write(AnswerDelta(reasoning="Hm."))
    data += writer.write(AnswerDelta(content="Well."))
    data += writer.write(
        AnswerDelta(tool_calls=[ToolCallDelta(0, "a", "f", "{"), ToolCallDelta(0)])
    )
    data += writer.write(AnswerDelta(tool_calls=[ToolCallDelta(0, arguments="}")]))
    data += writer.write(AnswerDelta(tool_calls=[ToolCallDelta(1, "b", "g", "{}")]))
    data += writer.end()
    names = [line[7:] for line in data.decode().splitlines() if line.startswith("event: ")]
    start, delta, stop = (f"content_block_{what}" for what in ("start", "delta", "stop"))
    assert names == [
        *(start, delta, delta, stop),  # thinking: its text, its signature
        *(start, delta, stop),
        *(start, delta, delta, stop),
        *(start, delta, stop),
    ]


class City(pydantic.BaseModel):
    """A city."""

    name: Literal["Paris", "Rome"]


def test_parsed_messages(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Which city is the capital of Italy?"}],
        "output_format": City,
    }
    assert isinstance(client.messages.parse(**asked).parsed_output, City)
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream)
        assert isinstance(stream.get_final_message().parsed_output, City)


def test_models_and_request_ids(client: anthropic.Anthropic) -> None:
    assert [model.display_name for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    answer = client.messages.create(model=MODEL, max_tokens=1, messages=HELLO)
    assert answer.id == f"msg_{answer._request_id}"
