"""response_format and structured_outputs that cannot be held: 400 with a reason, and no stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.sampling.grammar import GrammarCompiler
from pyroclast.server.errors import HttpError
from pyroclast.server.service import JsonReply
from pyroclast.server.tool_grammar import strict_grammar
from server_at import HELLO, serving


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        serving({"demo": AsyncLLM(demo_path())}) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        yield client


def schema(value: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": value}}}


REFUSED = {
    "not": schema({"not": {"type": "string"}}),
    "oneOf": schema({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    "uniqueItems": schema({"type": "array", "uniqueItems": True}),
    "minProperties": schema({"type": "object", "minProperties": 3}),
    "x-guidance.lenient": schema({"x-guidance": {"lenient": True}}),
    "unclosed group": {"structured_outputs": {"regex": "("}},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_held_is_refused(http: httpx.Client, said: str, stream: bool) -> None:
    body = {"messages": HELLO, "max_tokens": 8, "stream": stream} | REFUSED[said]
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    [field] = REFUSED[said]
    assert error["param"] == field


@pytest.mark.parametrize(
    "text",
    [
        r'{"x-guidance": {"\ud800": 1}}',
        r'{"properties": {"\udfff": {"enum": ["\ud800"]}}}',
        r'{"const": "\ud800"}',
        r'{"type": "\ud800"}',
        r'{"\ud800": 1}',
        r'{"$ref": "#/\ud800"}',
        r'{"multipleOf": 1, "$ref": "\ud800"}',
    ],
)
@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_half_a_character_in_a_schema_is_a_400(http: httpx.Client, path: str, text: str) -> None:
    body = {"messages": HELLO, "prompt": "a", "max_tokens": 1, "guided_json": text}
    answer = http.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "guided_json"


def test_any_message_can_be_sent() -> None:
    error = HttpError(400, "half \ud800, whole \U0001f525", param="x")
    assert error.body()["error"]["message"] == "half \\ud800, whole \U0001f525"
    for body in (error.body(), error.anthropic_body()):
        assert JsonReply(body)._body


def test_a_deep_grammar_is_refused_or_taken_and_the_server_lives(http: httpx.Client) -> None:
    rules = "\n".join(f'a{i}: a{i + 1} | "x"' for i in range(2500))
    grammar = f'start: a0\n{rules}\na2500: "y"'
    body = {"messages": HELLO, "max_tokens": 2, "structured_outputs": {"grammar": grammar}}
    assert http.post("/v1/chat/completions", json=body).status_code in (200, 400)
    assert http.get("/health").status_code == 200


def a_tool(schema: Any) -> list[dict[str, Any]]:
    return [{"function": {"name": "f", "strict": True, "parameters": schema}}]


def test_a_strict_tool_that_cannot_be_held_is_refused() -> None:
    with pytest.raises(HttpError, match="the schema of f cannot be held: minProperties") as caught:
        strict_grammar("hermes", a_tool({"type": "object", "minProperties": 2}))
    assert (caught.value.status, caught.value.param) == (400, "tools")


def test_the_arguments_of_a_strict_tool_spell_no_name_in_two_ways() -> None:
    tokens = [*(bytes([i]) for i in range(256)), b"<eos>"]
    grammars = GrammarCompiler(
        tokens, lambda text: list(text.encode()), special_ids=[256], eos_ids=[256], n_rows=257
    )
    tools = a_tool({"type": "object", "properties": {"foo": {"type": "integer"}}})
    matcher = grammars.matcher(strict_grammar("hermes", tools) or {})
    for byte in b'<tool_call>\n{"name": "f", "arguments": {"':
        matcher.accept(byte)
    words = np.zeros(9, np.uint32)
    matcher.write_mask(words.ctypes.data)
    matcher.accept(ord("\\"))
    matcher.write_mask(words.ctypes.data)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    assert bits[ord("n")]
    assert not bits[ord("u")]
