"""What stands between a router and the application: the text that it routes by, the bridge to the
replica, and the metrics of all of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pyroclast.server.bridge import Call, answer
from pyroclast.server.metrics import Metrics, merged
from pyroclast.server.prefix_text import _MAX_CHARS, _MIN_CHARS, prefix_text


def as_body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_prompts_that_begin_alike_have_texts_that_begin_alike() -> None:
    system = {"role": "system", "content": "s" * _MIN_CHARS}
    first = [system, {"role": "user", "content": "One."}]
    more = [*first, {"role": "assistant", "content": "Two."}, {"role": "user", "content": "3."}]
    one, two = prefix_text(as_body(messages=first)), prefix_text(as_body(messages=more))
    assert one is not None and two is not None
    assert two.startswith(one) and two != one
    # The fields of every endpoint, in the order of templates and whatever that of the body.
    instructed = prefix_text(as_body(input="i" * _MIN_CHARS, instructions="first"))
    assert instructed == "first" + "i" * _MIN_CHARS
    salted = prefix_text(as_body(messages=first, cache_salt="mine"))
    assert salted is not None and salted.startswith("mine")
    adapted = prefix_text(as_body(model="demo:sql", messages=first))
    assert adapted == f"sql{prefix_text(as_body(model='demo', messages=first))}"


def test_what_a_router_does_not_read() -> None:
    assert prefix_text(as_body(prompt="p" * (_MIN_CHARS - 1))) is None
    assert prefix_text(as_body(prompt="p" * _MIN_CHARS)) == "p" * _MIN_CHARS
    assert prefix_text(as_body(prompt="p" * (_MAX_CHARS + 9))) == "p" * _MAX_CHARS
    assert prefix_text(as_body(prompt=[7] * _MIN_CHARS)) == "7," * _MIN_CHARS
    assert prefix_text(as_body(model="m" * _MIN_CHARS, stop=["s" * _MIN_CHARS])) is None
    assert prefix_text(as_body(model="m:" + "a" * _MAX_CHARS, prompt="p")) == "a" * _MAX_CHARS
    for body in (b"", b"[1]", b"{", b"\xff", b"[" * 100_000):
        assert prefix_text(body) is None


def test_a_body_that_takes_long_to_read_goes_where_there_is_room() -> None:
    prompt = "p" * _MAX_CHARS
    few, many = [""] * 100, [[]] * 100_000
    assert prefix_text(as_body(messages=[few, prompt])) == prompt
    assert prefix_text(as_body(messages=[prompt, many])) == prompt
    assert prefix_text(as_body(messages=[many, prompt])) is None
    assert prefix_text(as_body(prompt=prompt, user="u" * (1 << 20))) is None


def test_the_bridge_ends_what_nobody_reads() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["method"], scope["path"], (await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            seen.append((await receive())["type"])
        finally:
            seen.append("ended")

    async def read_one() -> None:
        call = Call("POST", "/x", [], b"body")
        messages = answer(app, call)
        assert (await anext(messages))[0]["status"] == 200
        await messages.aclose()

    asyncio.run(read_one())
    assert seen[0] == ("POST", "/x", b"body")
    assert seen[-1] == "ended"


def test_the_bridge_raises_what_the_application_does() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start"})
        raise KeyError("lost")

    async def read_all() -> None:
        assert [each async for each in answer(app, Call("GET", "/", []))]

    with pytest.raises(KeyError, match="lost"):
        asyncio.run(read_all())


def test_a_call_has_the_path_below_the_root() -> None:
    scope = {
        "method": "GET",
        "path": "/llm/v1/models",
        "root_path": "/llm",
        "headers": [("a", b"")],
    }
    scope["headers"] = [(b"a", b"b")]
    assert Call.of(scope, b"").scope()["path"] == "/v1/models"
    assert Call.of(scope | {"root_path": ""}, b"").path == "/llm/v1/models"
    assert Call.of(scope | {"path": "/llm"}, b"").path == "/"


def test_merged_metrics_keep_each_server_apart() -> None:
    one, two = Metrics(), Metrics()
    one.prompt_tokens.labels("m").inc(3)
    two.prompt_tokens.labels("m").inc(4)
    two.first_token_s.labels("m").observe(0.2)
    lines = merged({"a": one.text(), "b": two.text()}, "replica").decode().splitlines()
    assert 'vllm:prompt_tokens_total{model_name="m",replica="a"} 3.0' in lines
    assert 'vllm:prompt_tokens_total{model_name="m",replica="b"} 4.0' in lines
    assert lines.count("# TYPE vllm:prompt_tokens_total counter") == 1
    bucket = 'vllm:time_to_first_token_seconds_bucket{le="0.25",model_name="m",replica="b"} 1.0'
    assert bucket in lines
