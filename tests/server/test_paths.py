"""Paths and methods, and the headers that every reply has."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import serving

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        serving({"demo": AsyncLLM(demo_path())}) as running,
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
