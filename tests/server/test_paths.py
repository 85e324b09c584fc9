"""Paths and methods, and the headers that every reply has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from pyroclast.server.app import create_app
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
            await client.post("/tokenize", content=b"my secret")

    with caplog.at_level(logging.DEBUG, logger="pyroclast"):
        asyncio.run(ask())
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "POST '/tokenize'" in line]) == 3
    assert len([line for line in lines if "my secret" in line]) == 3 * log_bodies
