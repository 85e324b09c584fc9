"""Bodies made to be slow, large or unprintable, on every path that takes one: each is answered in
bounded time and memory, never with a 5xx."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import HELLO, serving

_MAX_CPU_S = 10
_MAX_GROWTH_KB = 768 << 10
HALF = "\ud800"
Body = dict[str, Any]


def chat(content: Any, **more: Any) -> Body:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 1} | more


def response(content: Any, **more: Any) -> Body:
    return {"input": content, "max_output_tokens": 1} | more


def completion(prompt: Any, **more: Any) -> Body:
    return {"prompt": prompt, "max_tokens": 1} | more


PATHS: dict[str, Callable[..., Body]] = {
    "/v1/chat/completions": chat,
    "/v1/messages": chat,
    "/v1/responses": response,
    "/v1/completions": completion,
}


def nested(depth: int, opening: str = "[", inner: str = "1", closing: str = "]") -> bytes:
    return (opening * depth + inner + closing * depth).encode()


def with_raw(body: Body, key: str, raw: bytes) -> bytes:
    """The body with one more key, whose value is written as it is."""
    return json.dumps(body).encode()[:-1] + b', "' + key.encode() + b'": ' + raw + b"}"


# For every path: raw bytes of a value under each key of the body.
VALUES: dict[str, bytes] = {
    "deep lists": nested(100_000),
    "lists of 900": nested(900),
    "objects of 60": nested(60, '{"a":', "1", "}"),
    "objects of 900": nested(900, '{"a":', "1", "}"),
    "a number of 5000 digits": b"9" * 5000,
    "a number of a megabyte": b"9" * (1 << 20),
    "1e400": b"1e400",
    "-1e400": b"-1e400",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "2**64": str(2**64).encode(),
    "-0.0": b"-0.0",
    "half a character": b'"\\ud800"',
    "the other half": b'"\\udc00x"',
    "a list of halves": b'["\\ud800", "\\udfff"]',
    "a raw surrogate": b'"\xed\xa0\x80"',
    "NUL": b'"\\u0000"',
    "a megabyte of text": b'"' + b"a" * (1 << 20) + b'"',
    "a megabyte of spaces": b'"' + b" " * (1 << 20) + b'"',
    "a megabyte of escapes": b'"' + b"\\u00e9" * (1 << 17) + b'"',
    "empty lists": b"[" + b"[]," * 100_000 + b"[]]",
    "empty objects": b"[" + b"{}," * 100_000 + b"{}]",
    "one key many times": b"{" + b'"a":1,' * 200_000 + b'"a":1}',
    "many keys": b"{" + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}",
}
KEYS = {
    "/v1/chat/completions": (
        "messages", "model", "max_tokens", "temperature", "seed", "stop", "tools", "tool_choice",
        "response_format", "logit_bias", "stream_options", "chat_template_kwargs", "user", "x",
    ),
    "/v1/messages": (
        "messages", "system", "model", "max_tokens", "temperature", "stop_sequences", "tools",
        "tool_choice", "thinking", "metadata", "output_format", "x",
    ),
    "/v1/responses": (
        "input", "instructions", "model", "max_output_tokens", "temperature", "tools",
        "tool_choice", "text", "reasoning", "metadata", "user", "x",
    ),
    "/v1/completions": (
        "prompt", "model", "max_tokens", "temperature", "seed", "stop", "logit_bias", "x",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        serving({"demo": AsyncLLM(demo_path())}) as running,
        httpx.Client(base_url=running.url, timeout=120) as client,
    ):
        yield client


def check(http: httpx.Client, path: str, raw: bytes) -> httpx.Response:
    """The answer, which came soon and took little."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.process_time()
    answer = http.post(path, content=raw, headers={"content-type": "application/json"})
    assert time.process_time() - start_s < _MAX_CPU_S, raw[:300]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < _MAX_GROWTH_KB, raw[:99]
    assert answer.status_code in (200, 400, 404), (raw[:300], answer.text[:300])
    assert len(answer.content) < 20_000 + 4 * len(raw)  # metadata are sent back
    return answer


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("path", PATHS)
def test_any_value_under_any_key_is_answered(http: httpx.Client, path: str, value: str) -> None:
    body = PATHS[path](HELLO[0]["content"], model="demo")
    # A large value is expensive, and most keys take it alike.
    keys = KEYS[path] if len(VALUES[value]) < 10_000 else KEYS[path][:1] + KEYS[path][-4::2]
    for key in keys:
        given = {name: each for name, each in body.items() if name != key}
        check(http, path, with_raw(given, key, VALUES[value]))
    assert http.get("/health").status_code == 200


def function_tool(path: str, schema: Any) -> Body:
    """A tool with that schema of arguments, as the path takes it."""
    if path == "/v1/messages":
        return {"name": "f", "input_schema": schema}
    if path == "/v1/responses":
        return {"type": "function", "name": "f", "parameters": schema}
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


def schema_of(levels: int) -> Any:
    found: Any = {"type": "string"}
    for _ in range(levels):
        found = {"type": "object", "properties": {"a": found}}
    return found


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("levels", [30, 60, 200])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_schemas_of_tools(http: httpx.Client, path: str, levels: int, choice: str) -> None:
    wanted: Any = choice
    if path == "/v1/messages":
        wanted = {"type": "any" if choice == "required" else "auto"}
    tools = [function_tool(path, schema_of(levels))] * 3
    body = PATHS[path]("hi", tools=tools, tool_choice=wanted)
    answer = check(http, path, json.dumps(body).encode())
    if levels == 200:
        assert answer.status_code == 400


def turns_of(arguments: str, name: str, call_id: str) -> dict[str, Any]:
    """A history with a call and its result, for each path that knows calls."""
    function = {"name": name, "arguments": arguments}
    call = {"type": "function_call", "call_id": call_id, **function}
    result = {"type": "function_call_output", "call_id": call_id, "output": arguments}
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        read = {"a": arguments}
    use = {"type": "tool_use", "id": call_id, "name": name, "input": read}
    answered = {"type": "tool_result", "tool_use_id": call_id, "content": arguments}
    return {
        "/v1/chat/completions": [
            *HELLO,
            {"role": "assistant", "tool_calls": [{"id": call_id, "function": function}]},
            {"role": "tool", "tool_call_id": call_id, "content": arguments},
        ],
        "/v1/responses": [*HELLO, call, result],
        "/v1/messages": [
            *HELLO,
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [answered]},
        ],
    }


ARGUMENTS = {
    "deep lists": "[" * 60_000,  # twice in a body, which has at most 131,072
    "closed lists": "[" * 900 + "]" * 900,
    "deep objects": '{"a":' * 900 + "1" + "}" * 900,
    "NaN": '{"a": NaN}',
    "1e400": '{"a": 1e400}',
    "many digits": '{"a": ' + "9" * 100_000 + "}",
    "half a character": '{"a": "\\ud800"}',
    "a half": '{"a": "' + HALF + '"}',
    "not JSON": "{",
    "a list": "[1]",
    "one key many times": "{" + '"a":1,' * 50_000 + '"a":1}',
    "a megabyte": '{"a": "' + "x" * (1 << 20) + '"}',
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_calls_in_the_history(http: httpx.Client, path: str, arguments: str) -> None:
    turns = turns_of(ARGUMENTS[arguments], "f", "c")[path]
    key = "input" if path == "/v1/responses" else "messages"
    check(http, path, json.dumps(PATHS[path]("hi") | {key: turns}).encode())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("name", [HALF, "x" * (1 << 20), "\0", "", "<|im_end|>"], ids=ascii)
def test_names_and_ids_in_the_history(http: httpx.Client, path: str, name: str) -> None:
    key = "input" if path == "/v1/responses" else "messages"
    for turns in (turns_of("{}", name, "c"), turns_of("{}", "f", name)):
        check(http, path, json.dumps(PATHS[path]("hi") | {key: turns[path]}).encode())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_many_parts_and_many_turns(http: httpx.Client, path: str) -> None:
    kind = "input_text" if path == "/v1/responses" else "text"
    key = "input" if path == "/v1/responses" else "messages"
    part = {"type": kind, "text": "a"}
    nested_parts = [{"type": kind, "text": [part]}]
    for content in ([part] * 50_000, nested_parts, [[[part]]], [{"type": kind}], [None], [1]):
        turn = {"role": "user", "content": content}
        check(http, path, json.dumps(PATHS[path]("hi") | {key: [turn]}).encode())
    for n_turns in (1, 15_000):
        turns = [*HELLO, {"role": "assistant", "content": "b"}] * n_turns
        check(http, path, json.dumps(PATHS[path]("hi") | {key: turns}).encode())
