"""The complaints that users of other servers make most often, each as a test.

In order of how often they are met; `docs/serving.md` says what the server does instead."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.server import sse
from pyroclast.server.answers import ChoiceReader, delta_json
from pyroclast.server.messages_in import ChatMessage, ContentPart, for_template
from pyroclast.text.answers.choose import parser_for
from server_at import WEATHER, RunningServer, serving

HELLO = [{"role": "user", "content": "Say hello in a few words."}]
CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    llm = AsyncLLM(demo_path(), embeddings=True)
    with serving({"demo": llm}, cors_origins=["*"], api_keys=["key"]) as running:
        yield running


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx.Client]:
    headers = {"authorization": "Bearer key"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=300) as client:
        yield client


def stream(http: httpx.Client, path: str = CHAT, **body: Any) -> list[Any]:
    """The JSON of every event of a stream."""
    text = http.post(path, json={"stream": True, **body}).text
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def called(text: str, step: int = 3) -> tuple[ChoiceReader, list[dict[str, Any]]]:
    """What the chat endpoint makes of a model's text, fed in pieces."""
    from pyroclast import Chunk

    reader = ChoiceReader(parser_for("hermes", tools=[TOOL]))
    pieces = [text[i : i + step] for i in range(0, len(text), step)]
    deltas = [delta_json(reader.read(Chunk(piece, [1]))) for piece in pieces]
    return reader, [*deltas, delta_json(reader.read(Chunk("", [2], 0, "stop")))]


def test_01_the_last_chunk_has_a_finish_reason(http: httpx.Client) -> None:
    for max_tokens in (1, 200):
        chunks = stream(http, messages=HELLO, max_tokens=max_tokens, temperature=0)
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons[-1] in ("stop", "length")
        assert set(reasons[:-1]) == {None}


def test_02_every_delta_of_a_call_has_its_index_and_the_first_its_id() -> None:
    _, deltas = called(CALL + "\n" + CALL)
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert {piece["index"] for piece in pieces} == {0, 1}
    for index in (0, 1):
        first, *rest = [piece for piece in pieces if piece["index"] == index]
        assert first["id"]
        assert first["type"] == "function"
        assert first["function"]["name"] == "weather"
        assert all("id" not in piece and "name" not in piece["function"] for piece in rest)


def test_03_calls_end_with_tool_calls(http: httpx.Client) -> None:
    assert called(CALL)[0].finish_reason == "tool_calls"
    assert called("No call.")[0].finish_reason == "stop"
    body = {"messages": HELLO, "tools": [TOOL], "max_tokens": 100, "temperature": 0}
    body["tool_choice"] = {"type": "function", "function": {"name": "weather"}}
    assert stream(http, **body)[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_04_an_overflow_can_be_recognised(http: httpx.Client) -> None:
    answer = http.post(CHAT, json={"messages": [{"role": "user", "content": "a b " * 9000}]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["n_prompt_tokens"] > error["n_ctx"]


def test_05_a_stream_is_not_silent_during_a_long_prompt(
    http: httpx.Client, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something arrives within a second, though the first token takes longer: here, as long as it
    takes to arrive."""
    model, heard = running.app.models.all[0].llm.llm.model, threading.Event()
    forward = model.forward

    def forward_once_heard(sample: bool = False) -> None:
        assert heard.wait(60)
        forward(sample)

    monkeypatch.setattr(model, "forward", forward_once_heard)
    body = {"messages": [{"role": "user", "content": "a b " * 100}], "max_tokens": 1}
    with http.stream("POST", CHAT, json=body | {"stream": True}) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces)
        heard.set()
        rest = b"".join(pieces)
    assert sse.FIRST_PING_S < 1
    assert b"[DONE]" in rest


def test_06_a_closed_connection_leaves_the_queue_and_the_prefill(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step lasts until the server has noticed, and there is no second one."""
    loop, model = running.app.models.all[0].llm.llm._loop, running.app.models.all[0].llm.llm.model
    forward, n_steps = model.forward, 0

    def counted(sample: bool = False) -> None:
        nonlocal n_steps
        n_steps += 1
        while len({id(call) for call, _ in tuple(loop._given_up)}) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        forward(sample)

    monkeypatch.setattr(model, "forward", counted)
    prompt = {"messages": [{"role": "user", "content": "a b " * 3500}], "max_tokens": 2}
    host, port = running.url.removeprefix("http://").split(":")
    connections, deadline = [], time.monotonic() + 60
    for _ in range(3):
        raw = json.dumps(prompt).encode()
        connection = socket.create_connection((host, int(port)))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\n"
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        connections.append(connection)
    while len(list(loop.stepper.scheduler.requests())) + len(loop._inbox) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for connection in connections:
        connection.close()
    while loop.has_work():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert n_steps == 1


def test_07_reasoning_has_both_names() -> None:
    reader, deltas = called("<think>Hm.</think>Yes.")
    found = [delta for delta in deltas if "reasoning" in delta]
    assert "".join(delta["reasoning"] for delta in found) == "Hm."
    assert all(delta["reasoning"] == delta["reasoning_content"] for delta in found)
    assert reader.answer.content == "Yes."


def test_08_developer_and_several_system_messages(http: httpx.Client) -> None:
    turns = for_template(
        [ChatMessage("system", "A."), ChatMessage("developer", "B."), ChatMessage("user", "C.")]
    )
    assert turns == [
        {"role": "system", "content": "A.\n\nB."},
        {"role": "user", "content": "C."},
    ]
    messages = [{"role": "developer", "content": "Be brief."}, *HELLO]
    assert http.post(CHAT, json={"messages": messages, "max_tokens": 1}).is_success


def test_09_usage_comes_in_one_last_chunk_if_asked_for(http: httpx.Client) -> None:
    chunks = stream(http, messages=HELLO, max_tokens=3)
    assert all("usage" not in chunk for chunk in chunks)
    options = {"include_usage": True}
    *chunks, last = stream(http, messages=HELLO, max_tokens=3, stream_options=options)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > last["usage"]["completion_tokens"] > 0


def test_10_a_stream_with_tools_is_not_held_back() -> None:
    _, deltas = called("I will look that up for you now. " + CALL)
    contents = [delta["content"] for delta in deltas if "content" in delta]
    arguments = [delta for delta in deltas if "tool_calls" in delta]
    assert len(contents) > 5
    assert len(arguments) > 3


def test_11_large_schemas_compile(http: httpx.Client) -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "maxLength": 5000},
            "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 4000},
            "id": {"type": "string", "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}$"},
        },
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    body = {"messages": HELLO, "tools": [tool], "tool_choice": "required", "max_tokens": 4}
    assert http.post(CHAT, json=body).is_success


def test_12_response_format_is_enforced(http: httpx.Client) -> None:
    schema = WEATHER
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for seed in range(3):
        body = {"messages": HELLO, "response_format": form, "seed": seed, "max_tokens": 120}
        [choice] = http.post(CHAT, json=body).json()["choices"]
        if choice["finish_reason"] == "stop":
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    broken = {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}
    answer = http.post(CHAT, json={"messages": HELLO, "response_format": broken})
    assert answer.status_code == 400
    assert "nothing" in answer.json()["error"]["message"]


def test_13_embeddings_come_as_base64(http: httpx.Client) -> None:
    asked = {"input": ["One", "Two"], "model": "demo"}
    plain = http.post("/v1/embeddings", json=asked).json()
    packed = http.post("/v1/embeddings", json=asked | {"encoding_format": "base64"}).json()
    for each, other in zip(plain["data"], packed["data"], strict=True):
        data = base64.b64decode(other["embedding"])
        assert list(struct.unpack(f"<{len(data) // 4}f", data)) == each["embedding"]
    short = http.post("/v1/embeddings", json=asked | {"dimensions": 16}).json()
    assert [len(each["embedding"]) for each in short["data"]] == [16, 16]
    long = http.post("/v1/embeddings", json=asked | {"dimensions": 10_000})
    assert (long.status_code, long.json()["error"]["param"]) == (400, "dimensions")


def test_14_max_completion_tokens_counts(http: httpx.Client) -> None:
    body = {"messages": HELLO, "max_completion_tokens": 3, "ignore_eos": True}
    answer = http.post(CHAT, json=body).json()
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["choices"][0]["finish_reason"] == "length"


def test_15_content_may_be_null_or_parts(http: httpx.Client) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "!"}],
        },
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny."},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Thanks."},
    ]
    assert http.post(CHAT, json={"messages": messages, "max_tokens": 1}).is_success
    [turn] = for_template([ChatMessage("user", [ContentPart("text", "a"), "b"])])
    assert turn["content"] == "ab"


def test_16_a_preflight_needs_no_key(running: RunningServer) -> None:
    headers = {"origin": "http://a.example", "access-control-request-method": "POST"}
    assert httpx.options(running.url + CHAT, headers=headers).status_code == 200


def test_17_codex_finds_what_it_reads(http: httpx.Client) -> None:
    """Tools of kinds that run elsewhere are ignored; the first event has created_at and model."""
    tools = [
        {"type": "web_search"},
        {"type": "namespace", "name": "x", "tools": []},
        {"type": "image_generation"},
        {"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": False},
    ]
    found = stream(
        http,
        "/v1/responses",
        model="demo",
        instructions="Be brief.",
        input=[
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
        ],
        tools=tools,
        tool_choice="auto",
        parallel_tool_calls=False,
        store=False,
        include=["reasoning.encrypted_content"],
        max_output_tokens=8,
    )
    first = found[0]
    assert first["type"] == "response.created"
    assert {"id", "created_at", "model", "status"} <= set(first["response"])
    kinds = [event["type"] for event in found]
    for kind in ("output_item.added", "output_text.delta", "output_item.done"):
        assert f"response.{kind}" in kinds
    assert found[-1]["response"]["usage"]["total_tokens"] > 0


def test_18_claude_code_gets_one_block_at_a_time(http: httpx.Client) -> None:
    found = stream(http, "/v1/messages", messages=HELLO, max_tokens=8, model="demo")
    kinds = [event["type"] for event in found]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    is_open = False
    for kind in kinds:
        if kind == "content_block_start":
            assert not is_open
            is_open = True
        elif kind == "content_block_stop":
            assert is_open
            is_open = False
    assert not is_open


def test_19_the_billing_line_does_not_change_the_prompt(http: httpx.Client) -> None:
    def n_tokens(system: Any) -> int:
        body = {"messages": HELLO, "system": system}
        found: int = http.post("/v1/messages/count_tokens", json=body).json()["input_tokens"]
        return found

    plain = [{"type": "text", "text": "Be brief."}]
    line = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1a2b3c;"}
    assert n_tokens([line, *plain]) == n_tokens(plain) == n_tokens("Be brief.")


def test_20_cached_tokens_are_counted_under_every_name(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Which tokens of this text are cached? " * 9}]
    chat = {"messages": messages, "max_tokens": 1}
    response = chat | {"input": messages, "max_output_tokens": 1}
    for path, body, *names in (
        (CHAT, chat, "prompt_tokens_details", "cached_tokens"),
        ("/v1/responses", response, "input_tokens_details", "cached_tokens"),
        ("/v1/messages", chat, "cache_read_input_tokens"),
    ):
        n_cached = []
        for _ in range(2):
            found: Any = http.post(path, json=body | {"cache_salt": path}).json()["usage"]
            for name in names:
                found = found[name]
            n_cached.append(found)
        assert n_cached[0] == 0 < n_cached[1], path


def test_21_nothing_is_cut_off_silently(http: httpx.Client) -> None:
    """Every token of a prompt is read, or the request is refused."""
    text = "word " * 2500
    n_text = http.post("/tokenize", json={"prompt": text}).json()["count"]
    body = {"prompt": text, "max_tokens": 1}
    assert http.post("/v1/completions", json=body).json()["usage"]["prompt_tokens"] == n_text
    body = {"prompt": text * 4, "max_tokens": 1}
    assert http.post("/v1/completions", json=body).status_code == 400


def test_22_a_stream_ends_with_done(http: httpx.Client) -> None:
    for path, body in (
        (CHAT, {"messages": HELLO, "max_tokens": 2}),
        ("/v1/completions", {"prompt": "Hi", "max_tokens": 2}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}),
    ):
        assert http.post(path, json=body | {"stream": True}).text.endswith("data: [DONE]\n\n")


def test_23_arguments_are_a_text(http: httpx.Client) -> None:
    body = {"messages": HELLO, "tools": [TOOL], "max_tokens": 120, "temperature": 0}
    body["tool_choice"] = "required"
    [choice] = http.post(CHAT, json=body).json()["choices"]
    for call in choice["message"]["tool_calls"]:
        assert isinstance(call["function"]["arguments"], str)
        json.loads(call["function"]["arguments"])


def test_24_a_streamed_schema_is_whole_json(http: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": WEATHER}}
    for seed in range(3):
        chunks = stream(
            http, messages=HELLO, response_format=form, seed=seed, max_tokens=150, tools=[TOOL]
        )
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        if chunks[-1]["choices"][0]["finish_reason"] == "stop":
            assert json.loads(text)["city"] in ("Paris", "Rome")


def test_25_the_list_of_models_has_every_field_and_404_is_json(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    [model] = listed["data"]
    wanted = {"id", "object", "created", "owned_by", "max_model_len", "meta", "architecture"}
    assert wanted <= set(model)
    assert listed["models"]
    answer = http.post(CHAT, json={"messages": HELLO, "model": "nobody"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert http.post(CHAT, json={"messages": HELLO, "model": "DEMO", "max_tokens": 1}).is_success
