"""The same requests under the names that clients of vLLM and llama-server use."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pyroclast.server.anthropic import MessagesRequest
from pyroclast.server.chat import ChatRequest
from pyroclast.server.completions import CompletionRequest
from pyroclast.server.embeddings import EmbeddingsRequest
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import sampling_params, structure
from pyroclast.server.responses_in import ResponsesRequest, as_chat
from pyroclast.server.service import Exchange
from server_at import HELLO

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
# vLLM's client sends every field of its type.
OFF = {
    "regex": None,
    "json_object": False,
    "disable_any_whitespace": False,
    "whitespace_pattern": None,
}


def chat(**fields: Any) -> ChatRequest:
    return msgspec.convert({"messages": HELLO} | fields, ChatRequest)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_grammar": 'start: "a"'}, {"grammar": 'start: "a"'}),
        ({"structured_outputs": {"json": SCHEMA} | OFF}, {"json": SCHEMA}),
        ({"json_schema": SCHEMA, "grammar": ""}, {"json": SCHEMA}),
        ({"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, {"json": SCHEMA}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, {"json": SCHEMA}),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, {"regex": "a"}),
        ({"grammar": "", "structured_outputs": {}}, None),
    ],
)
def test_every_name_of_a_structure_is_enforced(fields: Any, wanted: Any) -> None:
    assert structure(chat(**fields)) == wanted


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"grammar": "a", "json_schema": {}}, "json_schema", "one field may ask"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "structured_outputs, response_format",
        ),
        ({"structured_outputs": {"json": {}, "disable_any_whitespace": True}}, None, "disable_any"),
        ({"guided_choice": []}, "guided_choice", "choice"),
        ({"response_format": {"type": "json_schema"}}, None, "schema is missing"),
    ],
)
def test_what_cannot_be_enforced_names_its_field(fields: Any, param: str | None, said: str) -> None:
    body = msgspec.convert({"prompt": "a"} | fields, CompletionRequest)
    with pytest.raises(HttpError, match=said) as caught:
        sampling_params(body, max_tokens=1)
    assert caught.value.status == 400
    assert param is None or caught.value.param == param


def test_responses_take_sampling_fields_of_vllm() -> None:
    given = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "stop": ["x"], "ignore_eos": True}
    body = as_chat(msgspec.convert({"input": "Hi"} | given, ResponsesRequest))
    assert {name: getattr(body, name) for name in given} == given


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatRequest, {"messages": HELLO}),
        (CompletionRequest, {"prompt": "a"}),
        (ResponsesRequest, {"input": "a"}),
        (MessagesRequest, {"messages": HELLO, "max_tokens": 1}),
        (EmbeddingsRequest, {"input": "a"}),
    ],
)
def test_every_endpoint_takes_a_priority(kind: Any, body: Any) -> None:
    def priority(given: int) -> str:
        raw = msgspec.json.encode(body | {"priority": given})
        exchange = Exchange(raw, {}, None, None, None)  # type: ignore[arg-type]
        asyncio.run(exchange.read())
        exchange.body(kind)
        return exchange.priority

    assert (priority(0), priority(1)) == ("interactive", "batch")
