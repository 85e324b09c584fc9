"""Requests that would take much memory, or hold up the event loop: bounds, and work in threads."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM, SamplingParams
from pyroclast.server.completions import CompletionRequest, Completions
from pyroclast.server.errors import HttpError
from pyroclast.server.fields import MAX_STOPS, SamplingFields, sampling_params
from pyroclast.server.response_items import MAX_ITEMS, input_messages
from pyroclast.server.served import Served
from pyroclast.server.service import Exchange
from pyroclast.server.tools_in import MAX_TOOLS, Tool, ToolFunction, tool_use
from server_at import HELLO, serving

CALL = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
FUNCTION = {"type": "function", "name": "f", "function": {"name": "f"}, "input_schema": {}}
MANY = {"messages": HELLO, "input": "a", "max_tokens": 1, "tools": [FUNCTION] * (MAX_TOOLS + 1)}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        serving({"demo": AsyncLLM(demo_path())}) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "path", ["chat/completions", "responses", "messages", "messages/count_tokens"]
)
def test_tools_are_bounded(http: httpx.Client, path: str) -> None:
    body = {**MANY, "tools": [{**FUNCTION, "type": "custom"}] * (MAX_TOOLS + 1)}
    answer = http.post(f"/v1/{path}", json=MANY if path != "messages" else body)
    assert answer.status_code == 400
    assert f"length <= {MAX_TOOLS}" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["tokenize", "apply-template"])
def test_tools_of_a_template_are_bounded(http: httpx.Client, path: str) -> None:
    assert http.post(f"/{path}", json=MANY).json()["error"]["param"] == "tools"


def test_stop_sequences_are_bounded(http: httpx.Client) -> None:
    body = {"messages": HELLO, "max_tokens": 1, "stop_sequences": ["a"] * (MAX_STOPS + 1)}
    answer = http.post("/v1/messages", json=body)
    assert answer.status_code == 400
    assert "at most 32 stop strings" in answer.json()["error"]["message"]
    allowed = SamplingFields(stop=["a"] * MAX_STOPS)
    assert len(sampling_params(allowed, max_tokens=1).stop) == MAX_STOPS


def test_calls_in_a_row_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    n_calls = 100_000  # copying the list for each takes many seconds
    monkeypatch.setattr("pyroclast.server.response_items.MAX_ITEMS", n_calls)
    for _ in range(3):  # some virtual machines count the time that others take from them
        start_s = time.process_time()
        [turn] = input_messages([CALL] * n_calls)
        taken_s = time.process_time() - start_s
        if taken_s < 2:
            break
    assert taken_s < 2
    assert len(turn.tool_calls or ()) == n_calls


def test_items_are_bounded() -> None:
    with pytest.raises(HttpError, match="at most 16384 items, got 16385") as found:
        input_messages([CALL] * (MAX_ITEMS + 1))
    assert found.value.param == "input"


def test_allowed_tools_are_bounded_and_found_by_name() -> None:
    tools = [Tool(ToolFunction(f"f{i}")) for i in range(MAX_TOOLS)]
    names = [{"name": f"f{i}"} for i in reversed(range(MAX_TOOLS))]
    found = tool_use(tools, {"type": "allowed_tools", "tools": names}, None)
    assert [tool["function"]["name"] for tool in found.tools] == [each["name"] for each in names]
    with pytest.raises(HttpError, match="at most 512 tools"):
        tool_use(tools, {"type": "allowed_tools", "tools": [*names, names[0]]}, None)
    for wrong in ("g", [], None):
        with pytest.raises(HttpError, match="none of the tools"):
            tool_use(tools, {"type": "allowed_tools", "tools": [{"name": wrong}]}, None)


def test_of_two_tools_with_one_name_the_first_counts() -> None:
    tools = [Tool(ToolFunction("f", "first")), Tool(ToolFunction("f", "second"))]
    named = tool_use(tools, {"type": "function", "function": {"name": "f"}}, None).named
    assert named is not None
    assert named["function"]["description"] == "first"


class Threads:
    """A tokenizer that notes in which threads it works."""

    chat_template = None
    vocab_size = 10

    def __init__(self, *, uses_process: bool = False) -> None:
        self.uses_process = uses_process
        self.seen: set[int] = set()

    def encode(self, text: str, **_: Any) -> list[int]:
        self.seen.add(threading.get_ident())
        return [len(text)]

    def decode(self, ids: Any, **_: Any) -> str:
        self.seen.add(threading.get_ident())
        return "a" * len(ids)


def served(tokenizer: Threads) -> Served:
    llm = SimpleNamespace(source=None, tokenizer=tokenizer, max_seq_len=10, vocab_size=10)
    return Served("name", SimpleNamespace(llm=llm))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("texts", "uses_process", "aside"),
    [
        (["a"], False, False),
        (["a"], True, True),
        (["a" * 10_000], False, True),
        (["a" * 1000] * 10, False, True),  # the request counts, not one text
        (["a" * 1000] * 9, False, False),
    ],
    ids=["short", "process", "long", "many", "few"],
)
def test_what_takes_long_to_encode_has_a_thread(
    texts: list[str], uses_process: bool, aside: bool
) -> None:
    tokenizer = Threads(uses_process=uses_process)
    prompts = [*texts, [7, 8]]
    found = asyncio.run(served(tokenizer).encode_prompts(prompts))
    assert found == [*([len(text)] for text in texts), [7, 8]]
    assert (threading.get_ident() not in tokenizer.seen) == aside


@pytest.mark.parametrize(("n_tokens", "aside"), [(999, False), (1000, True)])
def test_what_takes_long_to_decode_has_a_thread(n_tokens: int, aside: bool) -> None:
    for name, expected in (("decode", "a" * n_tokens), ("decode_each", ["a"] * n_tokens)):
        tokenizer = Threads()
        assert asyncio.run(getattr(served(tokenizer), name)([1] * n_tokens)) == expected
        assert (threading.get_ident() not in tokenizer.seen) == aside


@pytest.mark.parametrize(
    ("asked", "rooms"),
    [
        ({"max_tokens": 2}, [2, 2, 2]),
        ({"max_tokens": -1}, [None, None, None]),  # the engine knows what room there is
        ({"max_tokens": -1, "min_tokens": 9}, [None, None, 8]),
    ],
)
def test_prompts_of_any_length_share_their_parameters(
    asked: dict[str, int], rooms: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check of a large schema would hold up the event loop."""
    n_made, given = 0, []

    def counted(*args: Any, **options: Any) -> SamplingParams:
        nonlocal n_made
        n_made += 1
        return sampling_params(*args, **options)

    async def generate(_: Served, __: Any, params: list[SamplingParams], **___: Any) -> None:
        given.extend(params)

    monkeypatch.setattr("pyroclast.server.completions.sampling_params", counted)
    exchange: Any = SimpleNamespace(request_id="a", generate=generate)
    body = CompletionRequest(prompt=[[1], [2], [3, 4]], **asked)
    asyncio.run(Completions(exchange, served(Threads()), body).prepare())
    assert [params.max_tokens for params in given] == rooms
    assert n_made == len(set(rooms))
    assert max(params.min_tokens for params in given) == asked.get("min_tokens", 0)
    assert given[2].min_tokens == min(asked.get("min_tokens", 0), 8)


@pytest.mark.parametrize(("n_floats", "aside"), [(10, False), (30_000, True)])
def test_a_long_body_is_decoded_in_a_thread(
    n_floats: int, aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def decode(raw: bytes) -> Any:
        seen.add(threading.get_ident())
        return json.loads(raw)

    monkeypatch.setattr("pyroclast.server.service._decode", decode)
    raw = json.dumps({"stop": ["1.5"] * n_floats}).encode()
    exchange = Exchange(raw, {}, None, None, None)  # type: ignore[arg-type]
    asyncio.run(exchange.read())
    assert (threading.get_ident() not in seen) == aside


def test_a_long_body_is_read_as_a_short_one_is(http: httpx.Client) -> None:
    ids = [1, 2.0, 3] * 30_000
    answer = http.post("/detokenize", json={"tokens": ids})
    assert answer.is_success
    short = http.post("/detokenize", json={"tokens": [1, 2, 3]}).json()["prompt"]
    assert answer.json()["prompt"] == short * 30_000
    answer = http.post("/detokenize", content=b'{"tokens": [' + b"1, " * 30_000)
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]["message"]
