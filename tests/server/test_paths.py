"""Paths and methods, and the headers that every reply has."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.server.app import create_app
from pyroclast.server.errors import HttpError
from pyroclast.server.limits import Limits
from pyroclast.server.served import ServedModels
from server_at import HELLO, serving

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def llm() -> AsyncLLM:
    return AsyncLLM(demo_path())


@pytest.fixture(scope="module")
def http(llm: AsyncLLM) -> Iterator[httpx.Client]:
    with (
        serving({"demo": llm}) as running,
        httpx.Client(base_url=running.url, timeout=60) as client,
    ):
        yield client


def test_paths_and_methods(http: httpx.Client) -> None:
    for path in ("/nothing", "/v1/engines", "/v1/chat/completions/control"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
        assert answer.json()["error"]["message"].endswith("; see /openapi.json")
    for path in ("/look", "/look/x", "/look/api/", "/look/api/step"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"].endswith("--look, or give create_app(look=...)")
    assert http.get(CHAT).status_code == 405
    assert http.get("/version").json()["version"]
    assert "text/html" in http.get("/docs").headers["content-type"]
    document = http.get("/openapi.json").json()
    assert CHAT in document["paths"]
    assert document["components"]["schemas"]["ChatRequest"]["properties"]["messages"]


def test_one_model_goes_by_both_paths_and_methods(http: httpx.Client) -> None:
    whole = http.get("/v1/models/demo").json()
    assert whole["id"] == "demo"
    for path in ("/v1/models/demo", "/models/demo"):
        assert http.get(path).json() == whole
        answer = http.head(path)
        assert answer.status_code == 200
        assert answer.content == b""
        assert http.get(f"{path}-large").json()["error"]["code"] == "model_not_found"
    assert http.post("/models/demo").status_code == 404


def test_what_a_model_was_loaded_from_is_its_name_too(http: httpx.Client) -> None:
    """Who types `pyroclast serve NAME` asks for NAME; the list of models still has one."""
    body = {"messages": HELLO, "max_tokens": 1, "model": str(demo_path()).upper()}
    answer = http.post(CHAT, json=body)
    assert answer.json()["model"] == body["model"]
    assert [each["id"] for each in http.get("/v1/models").json()["data"]] == ["demo"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/nothing", {}, 404), (CHAT, {}, 400), ("/v1/messages", {"max_tokens": 0}, 400)],
)
def test_a_refusal_names_its_request(
    http: httpx.Client, path: str, body: object, status: int
) -> None:
    answer = http.post(path, json=body, headers={"x-request-id": "my-id.1"})
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == answer.headers["request-id"] == "my-id.1"
    fresh = {http.post(path, json=body).headers["request-id"] for _ in range(2)}
    assert len(fresh) == 2


@pytest.mark.parametrize("log_bodies", [False, True])
def test_prompts_are_logged_only_if_asked_for(
    llm: AsyncLLM, log_bodies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        app = httpx.ASGITransport(create_app({"demo": llm}, log_bodies=log_bodies))
        async with httpx.AsyncClient(transport=app, base_url="http://x") as client:
            await client.post("/tokenize", json={"prompt": "my secret"})
            await client.post("/tokenize", json={"prompt": "my secret", "messages": HELLO})
            refused = await client.post("/tokenize", content=b"my secret")
            refusals.append(refused.headers["x-request-id"])

    refusals: list[str] = []
    with caplog.at_level(logging.DEBUG, logger="pyroclast"):
        asyncio.run(ask())
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "POST '/tokenize'" in line]) == 3
    told = [line for line in lines if "my secret" in line]
    assert len(told) == 3 * log_bodies
    assert not told or told[-1].startswith(refusals[0])  # the client can say which it was


def test_json_within_a_text_has_the_bounds_of_a_body(http: httpx.Client) -> None:
    """The arguments of an earlier call are decoded once more; escapes hide what is in them."""
    arguments = '{"a":' + "[" * (Limits().max_body_brackets + 1)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    raw = json.dumps({"messages": [*HELLO, message, *HELLO]}).replace("[[", r"\u005b\u005b")
    answer = http.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert 'at most 131072 "[" and "{"' in answer.json()["error"]["message"]


def test_a_forced_call_follows_no_other_structure(http: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    body = {"messages": HELLO, "tools": [tool], "tool_choice": "required", "max_tokens": 1}
    answer = http.post(CHAT, json=body | {"grammar": 'root ::= "a"'})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grammar")


def test_a_name_that_two_models_were_loaded_by_is_no_name() -> None:
    def served(name: str, alias: str) -> Any:
        return SimpleNamespace(name=name, alias=alias)

    models = ServedModels(
        [served("a", "m/Llama.gguf"), served("b", "m/llama.gguf"), served("c", "m/c")]
    )
    assert models.find("M/C").name == "c"
    with pytest.raises(HttpError, match="does not exist"):
        models.find("m/llama.gguf")
