"""What stands on the wire: chunk shapes, pings, keys, limits, CORS, cancellation, overflow."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.errors import (
    ClosedError,
    KernelError,
    NumericalError,
    QueueFullError,
    RequestError,
    TemplateError,
)
from pyroclast.server.errors import HttpError, of_exception
from pyroclast.server.limits import Limits
from server_at import RunningServer, serving

HELLO = [{"role": "user", "content": "Say hello."}]
CHAT = "/v1/chat/completions"
POET = {"role": "poet", "content": "a"}  # no role that a template knows
DEEP = {"deep": json.loads("[" * 80 + "]" * 80)}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with serving(
        {"demo": AsyncLLM(demo_path())},
        cors_origins=["http://page.example"],
        api_keys=("first", "second"),
        limits=Limits(max_body_bytes=1 << 20, body_timeout_s=1.0),
    ) as running:
        yield running


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer second"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=60) as client:
        yield client


def events(answer: httpx.Response) -> list[str]:
    """The data lines of a stream; everything else in it must be a comment or a blank line."""
    lines = answer.text.split("\n")
    assert all(line.startswith(("data: ", "event: ", ":")) or not line for line in lines)
    return [line[6:] for line in lines if line.startswith("data: ")]


def test_chunks_have_the_shape_that_clients_read(http: httpx.Client) -> None:
    answer = http.post(CHAT, json={"messages": HELLO, "max_tokens": 8, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer)
    assert done == "[DONE]"
    found = [json.loads(chunk) for chunk in chunks]
    for chunk in found:
        assert set(chunk) == {"id", "object", "created", "model", "choices"}
        [choice] = chunk["choices"]
        assert set(choice) == {"index", "delta", "logprobs", "finish_reason"}
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in found]
    assert reasons[:-1] == [None] * (len(found) - 1)
    assert reasons[-1] in ("stop", "length")


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_a_streamed_echo_counts_the_tokens_that_came(http: httpx.Client, max_tokens: int) -> None:
    body = {"prompt": ["The sky", "A"], "echo": True, "max_tokens": max_tokens, "ignore_eos": True}
    whole = http.post("/v1/completions", json=body).json()["usage"]
    assert whole["completion_tokens"] == 2 * max_tokens
    options = {"include_usage": True, "continuous_usage_stats": True}
    streamed = http.post("/v1/completions", json=body | {"stream": True, "stream_options": options})
    *_, before, last, done = events(streamed)
    assert done == "[DONE]"
    for event in (before, last):
        usage = json.loads(event)["usage"]
        assert usage["completion_tokens"] == whole["completion_tokens"]
        assert usage["total_tokens"] == whole["total_tokens"]


def test_a_wrong_or_missing_key_is_401_and_health_is_open(running: RunningServer) -> None:
    for headers in ({}, {"authorization": "Bearer third"}, {"authorization": "Basic second"}):
        answer = httpx.get(f"{running.url}/v1/models", headers=headers, timeout=60)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(
        f"{running.url}/v1/models", headers={"x-api-key": "first"}, timeout=60
    ).is_success
    assert httpx.get(f"{running.url}/health", timeout=60).json() == {"status": "ok"}
    assert httpx.get(f"{running.url}/ready", timeout=60).is_success


def test_a_preflight_is_answered_before_the_key_is_asked_for(running: RunningServer) -> None:
    ask = {
        "origin": "http://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    answer = httpx.options(running.url + CHAT, headers=ask)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "http://page.example"
    refused = httpx.options(running.url + CHAT, headers=ask | {"origin": "http://other.example"})
    assert "access-control-allow-origin" not in refused.headers


def test_unknown_fields_are_accepted_and_listed(http: httpx.Client) -> None:
    body = {"messages": HELLO, "max_tokens": 1, "no_such_field": 1, "another": None}
    answer = http.post(CHAT, json=body, headers={"x-request-id": "my-id.1"})
    assert answer.is_success
    assert answer.headers["x-ignored-fields"] == "another,no_such_field"
    assert answer.headers["x-request-id"] == "my-id.1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_request_without_a_model_is_answered_by_a_named_one(
    http: httpx.Client, path: str
) -> None:
    conversation = {"input": "Hi."} if path.endswith("responses") else {"messages": HELLO}
    limit = "max_output_tokens" if path.endswith("responses") else "max_tokens"
    answer = http.post(path, json={**conversation, limit: 16})
    assert answer.json()["model"] == "demo"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "not JSON"),
        (b"[1]", 400, "must be a JSON object"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400, ""),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"messages": []}', 400, "messages"),
        (b'{"messages": [{"role": 3}]}', 400, r"messages[0].role"),
        (b'{"messages": "x"}', 400, "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 1000}', 400, "n: "),
        (b'{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 999}', 400, "top_log"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stop": [""]}', 200, ""),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', 400, "JSON"),
        (b"x" * (2 << 20), 413, "at most"),
        (b"[" * ((1 << 17) + 1), 413, "got 131073; send it as several requests"),
    ],
)
def test_bad_bodies_are_refused(http: httpx.Client, body: bytes, status: int, said: str) -> None:
    answer = http.post(CHAT, content=body if status != 200 else body[:-1] + b', "max_tokens": 1}')
    assert answer.status_code == status
    if status != 200:
        error = answer.json()["error"]
        assert set(error) >= {"message", "type", "param", "code"}
        assert said in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (
            CHAT,
            {"messages": HELLO, "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
        ),
        (CHAT, {"messages": HELLO, "chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        (CHAT, {"messages": HELLO, "tool_choice": {"function": {"name": "x"}}}, "tool_choice"),
        (CHAT, {"messages": HELLO, "tools": [], "modalities": ["audio"]}, "modalities"),
        (CHAT, {"messages": HELLO, "chat_template_kwargs": DEEP}, "chat_template_kwargs"),
        (CHAT, {"messages": HELLO, "documents": [DEEP]}, "documents"),
        (CHAT, {"messages": [*HELLO, POET]}, "messages"),
        ("/apply-template", {"messages": [POET]}, "messages"),
        ("/tokenize", {"messages": [POET]}, "messages"),
        (CHAT, {"messages": HELLO, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": HELLO, "top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        (CHAT, {"messages": HELLO, "response_format": {"type": "x"}}, "response_format.type"),
        (
            CHAT,
            {"messages": HELLO, "structured_outputs": {"json": {}, "regex": "a"}},
            "structured_outputs",
        ),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/completions", {"prompt": [1, "a"]}, "prompt"),
        ("/v1/completions", {"prompt": [10**6]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (
            "/v1/completions",
            {"prompt": "a", "echo": True, "logprobs": 1, "stream": True},
            "stream",
        ),
        ("/v1/completions", {"prompt": ["a"] * 40, "n": 64, "max_tokens": 1}, None),
        ("/v1/responses", {"input": "a", "previous_response_id": "x"}, "previous_response_id"),
        ("/v1/responses", {"input": "a", "background": True}, "background"),
        ("/v1/responses", {"input": "a", "truncation": "auto"}, "truncation"),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ("/v1/responses", {"input": "a", "max_output_tokens": 10**6}, "input"),
        *(
            ("/v1/responses", {"input": "a", "text": {"format": form}}, param)
            for form, param in (
                ({"type": "json_schema", "name": "x", "schema": {"not": {}}}, "text.format"),
                ({"type": "json_schema", "schema": {"type": "nothing"}}, "text.format"),
                ({"type": "json_schema", "name": "x"}, "text.format.schema"),
                ({"type": "yaml"}, "text.format.type"),
            )
        ),
        *(
            (path, {"messages": HELLO, "prompt": "a", "max_tokens": 1, param: value}, param)
            for path in (CHAT, "/v1/completions")
            for param, value in (
                ("stop_token_ids", [10**6]),
                ("logit_bias", {"1000000": 1}),
                ("allowed_token_ids", [1, 10**6]),
            )
        ),
        ("/v1/embeddings", {"input": "a"}, None),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_400_that_names_the_field(
    http: httpx.Client, path: str, body: Any, param: str | None
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "param"),
    [(CHAT, "messages"), ("/v1/responses", "input"), ("/v1/responses/input_tokens", "input")],
)
def test_what_the_template_refuses_names_the_conversation(
    http: httpx.Client,
    running: RunningServer,
    path: str,
    param: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> list[int]:
        raise TemplateError("roles must alternate")

    monkeypatch.setattr(running.app.models.all[0].tokenizer, "encode_chat", refuse)
    answer = http.post(path, json={"messages": HELLO, "input": "a"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, "template_error")


def test_faults_of_the_machine_are_no_faults_of_the_request() -> None:
    assert of_exception(KernelError("no thread")).status == 500
    assert of_exception(NumericalError("NaN")).status == 500
    assert of_exception(RequestError("bad")).status == 400
    assert of_exception(ClosedError("closed")).status == 503
    assert of_exception(QueueFullError("full")).headers() == {"retry-after": "1"}
    assert "secret" not in of_exception(ValueError("secret")).message


@pytest.mark.parametrize("content", [[{"type": "image_url", "image_url": {"url": "http://x"}}]])
def test_what_cannot_be_honoured_is_named(http: httpx.Client, content: Any) -> None:
    answer = http.post(CHAT, json={"messages": [{"role": "user", "content": content}]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages[0].content[0]"


def test_an_overflow_says_what_agents_look_for(http: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "a b " * 9000}]}
    for path, extra in ((CHAT, {}), ("/v1/messages", {"max_tokens": 5})):
        answer = http.post(path, json=body | extra)
        assert answer.status_code == 400
        text = answer.text
        for part in (
            "maximum context length",
            "exceeds the available context size",
            "prompt is too long",
        ):
            assert part in text
    answer = http.post(CHAT, json={"messages": HELLO, "max_tokens": 10**6})
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_tokens_go_there_and_back(http: httpx.Client) -> None:
    text = "Hello, wörld <|im_end|>!"
    found = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()
    assert found["count"] == len(found["tokens"])
    assert http.post("/detokenize", json={"tokens": found["tokens"]}).json()["prompt"] == text
    prompt = http.post("/apply-template", json={"messages": HELLO}).json()["prompt"]
    assert "Say hello." in prompt
    chat = http.post("/tokenize", json={"messages": HELLO}).json()
    assert http.post("/detokenize", json={"tokens": chat["tokens"]}).json()["prompt"] == prompt
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>"
    assert http.post("/detokenize", json={"tokens": [10**9]}).status_code == 400


def test_metrics_count(http: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    before = value("vllm:generation_tokens_total")
    http.post(CHAT, json={"messages": HELLO, "max_tokens": 5, "ignore_eos": True})
    assert value("vllm:generation_tokens_total") == before + 5
    assert value("vllm:num_requests_running") == 0


def test_drafts_are_counted_and_are_no_part_of_the_usage(http: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = http.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith(f"vllm:spec_decode_num_{name}_total")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    body = {"prompt": "Once upon a time", "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    first = http.post("/v1/completions", json=body).json()
    n_drafted, n_accepted = value("draft_tokens"), value("accepted_tokens")
    second = http.post("/v1/completions", json=body).json()
    assert second["choices"][0]["text"] == first["choices"][0]["text"]
    assert second["usage"]["completion_tokens"] == 30
    n_drafted, n_accepted = value("draft_tokens") - n_drafted, value("accepted_tokens") - n_accepted
    assert 10 < n_accepted <= n_drafted


def wait_for_idle(running: RunningServer) -> None:
    """The engine has nothing to do any more."""
    loop = running.app.models.all[0].llm.llm._loop
    deadline = time.monotonic() + 60
    while loop.stepper.scheduler or loop.queued()[0]:
        assert time.monotonic() < deadline, "the request goes on"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_request(
    running: RunningServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a few steps, in the middle of 7,000 tokens, streamed or not."""
    model, n_steps = running.app.models.all[0].llm.llm.model, 0
    forward = model.forward

    def counted(sample: bool = False) -> None:
        """Slowly after a while: a busy machine may be seconds late with the end."""
        nonlocal n_steps
        n_steps += 1
        time.sleep(0.02 if n_steps > 100 else 0)
        forward(sample)

    monkeypatch.setattr(model, "forward", counted)
    body = {"messages": HELLO, "max_tokens": 7000, "ignore_eos": True, "stream": stream}
    raw = json.dumps(body).encode()
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first\r\n"
            b"Content-Length: %d\r\n\r\n" % len(raw) + raw
        )
        loop = running.app.models.all[0].llm.llm._loop
        deadline = time.monotonic() + 60
        while not loop.stepper.scheduler:
            assert time.monotonic() < deadline, "the request did not begin"
            time.sleep(0.005)
    wait_for_idle(running)
    assert 0 < n_steps < 3000


def test_a_body_that_does_not_come_is_given_up(running: RunningServer) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer first\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in connection.recv(1000).splitlines()[0]


def test_pings_come_while_nothing_else_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment at first and then again and again, until there is an event."""
    import asyncio

    from pyroclast.server import sse

    monkeypatch.setattr(sse, "FIRST_PING_S", 0.01)
    monkeypatch.setattr(sse, "PING_S", 0.02)
    sent: list[bytes] = []

    async def events() -> Any:
        async with asyncio.timeout(60):
            while sent.count(b": ping\n\n") < 2:
                await asyncio.sleep(0.01)
        yield sse.event({"a": 1})
        raise HttpError(500, "in the middle")

    async def ended() -> None:
        sent.append(b"ended")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.sleep(600)

    reply = sse.EventStream(
        events(), headers={}, on_error=lambda error: sse.event(error.body()), on_end=ended
    )
    asyncio.run(reply({}, receive, send))
    assert sent.count(b": ping\n\n") >= 2
    assert b'data: {"a":1}\n\n' in sent
    assert any(b"in the middle" in data for data in sent)
    assert sent[-1] == b"ended"
