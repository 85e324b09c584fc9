"""The Ray Serve application's own parts, with a Ray that is made up."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pyroclast.errors import RequestError
from pyroclast.server import ray_app
from pyroclast.server.bridge import Call, Message
from pyroclast.server.metrics import Metrics
from pyroclast.server.prefix_text import _MIN_CHARS
from pyroclast.server.ray_settings import read_settings

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
END: Message = {"type": "http.response.body", "body": b"end", "more_body": False}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.fixture
def no_router(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are checked before Ray is asked for anything."""
    monkeypatch.setattr(ray_app, "_ray", lambda: (None, None))


def test_without_ray_it_says_what_to_install(no_ray: None) -> None:
    with pytest.raises(RequestError, match=r"extra \[ray\].*pip install"):
        ray_app.build_app({"model": "m"})


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({}, "missing required field `model`"),
        ({"model": "m", "replica": "2"}, "unknown field `replica`; there are model, "),
        ({"model": "m", "replicas": "0"}, r">= 1 - at `\$.replicas`"),
        ({"model": "m", "cpus": "many"}, r"Expected `int`.*\$.cpus"),
        ({"model": "m", "adapters": "sql=folder"}, r"adapters .* such as .*; got 'sql=folder'"),
        ({"model": "m", "adapters": "[1]"}, r"Expected `object`.*\$.adapters"),
    ],
    ids=["no model", "unknown", "out of range", "no number", "no JSON", "no mapping"],
)
def test_wrong_arguments_are_told(no_router: None, args: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        ray_app.build_app(args)


def test_the_environment_gives_what_the_arguments_leave_out(
    no_router: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYROCLAST_RAY_MODEL", "m")
    monkeypatch.setenv("PYROCLAST_RAY_REPLICAS", "0")
    with pytest.raises(RequestError, match="replicas"):
        ray_app.app_from_environment({})
    with pytest.raises(RequestError, match="fronts"):
        ray_app.app_from_environment({"replicas": 1, "fronts": 0})


def test_mappings_and_lists_are_json_where_they_are_texts() -> None:
    given = {"model": "m", "adapters": '{"sql": "folder"}', "cors_origins": '["http://a.example"]'}
    settings = read_settings(given)
    assert settings.adapters == {"sql": "folder"}
    assert settings.cors_origins == ["http://a.example"]
    # A name is no JSON, whatever it looks like.
    assert read_settings({"model": "7"}).model == "7"


class FakeServe:
    """Notes the deployments that it is asked for."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}

    def deployment(self, kind: type, *, name: str, **options: Any) -> Any:
        self.made[name] = options | {"kind": kind}
        return SimpleNamespace(bind=lambda *args: {"name": name, "args": args})

    def get_replica_context(self) -> Any:
        return SimpleNamespace(replica_tag="tag")


def test_the_application_has_what_the_arguments_ask_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve, router = FakeServe(), object()
    monkeypatch.setattr(ray_app, "_ray", lambda: (serve, router))
    (tmp_path / "keys").write_text("key\n")
    asked = {"model": "m", "replicas": "3", "fronts": "2", "cpus": "4", "gpus": "1"}
    more = {"max_imbalance": 5, "api_key_file": str(tmp_path / "keys")}
    front = ray_app.build_app(asked | more)
    replica, made = front["args"][0], serve.made
    assert front["name"] == "Front" and replica["name"] == "Replica"
    settings, keys = replica["args"]
    assert settings.model == "m" and keys == ("key",)
    assert made["Replica"]["num_replicas"] == 3 and made["Front"]["num_replicas"] == 2
    assert made["Replica"]["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 1}
    routed = made["Replica"]["request_router_config"]
    assert routed["request_router_class"] is router
    assert routed["request_router_kwargs"]["imbalanced_threshold"] == 5
    n_ongoing = min(each["max_ongoing_requests"] for each in made.values())
    assert n_ongoing > settings.max_queued_requests  # the engine refuses, not Ray


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_replica_loads_the_model_that_the_settings_describe(
    monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    got: dict[str, Any] = {}

    def load(model: str, **options: Any) -> Any:
        got.update(options, model=model)
        return SimpleNamespace(llm=SimpleNamespace(name="folder/model.gguf"))

    def make(llms: dict[str, Any], **options: Any) -> None:
        got.update(options, names=list(llms))

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=FakeServe()))
    monkeypatch.setattr(ray_app, "AsyncLLM", load)
    monkeypatch.setattr(ray_app, "create_app", make)
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    options: dict[str, Any] = {
        "compute": "float32",
        "kernels": "sample=numpy",
        "kv_dtype": "f16",
        "max_seqs": 3,
        "max_queued_requests": 5,
        "embeddings": True,
        "prefix_cache": False,
        "speculation": "draft",
        "draft": "small.gguf",
        "adapters": {"sql": "folder"},
    }
    http = {"answer_parser": "plain", "cors_origins": ["http://page.example"]}
    settings = ray_app.Settings(model="m", cpus=2, gpus=gpus, **options, **http)
    ray_app.Replica(settings, ("key",))
    where = {"device": "cuda", "threads": None} if gpus else {"device": "cpu", "threads": 2}
    assert got.items() >= (options | where | {"model": "m", "names": ["model.gguf"]}).items()
    assert got["parser"] == "plain" and got["api_keys"] == ("key",)
    assert got["cors_origins"] == ["http://page.example"]
    ray_app.Replica(ray_app.Settings(model="m", served_model_name="name"), ())
    assert got["names"] == ["name"]


class FakeStream:
    """What Ray's handle gives for a stream: messages, and an error at their end if there is one."""

    def __init__(self, *each: Any) -> None:
        self._each, self.is_cancelled = each, False

    async def __aiter__(self) -> AsyncGenerator[list[Message], None]:
        for each in self._each:
            if isinstance(each, Exception):
                raise each
            yield [each]

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeReplicas:
    """Ray's handle of two replicas that answer alike."""

    def __init__(self, *messages: Any) -> None:
        self.stream, self._messages = FakeStream(*messages), messages
        self.calls: list[Any] = []

    def options(self, **options: Any) -> FakeReplicas:
        assert options == {"method_name": "answer", "stream": True}
        return self

    def remote(self, *args: Any, **named: Any) -> FakeStream:
        self.calls.append((args, named))
        return self.stream

    def broadcast(self, method: str, call: Call) -> Any:
        async def results_async(timeout_s: float) -> Any:
            assert timeout_s > 0
            return [("a", self._messages), ("b", self._messages)]

        assert (method, call.path) == ("whole", "/metrics")
        return SimpleNamespace(results_async=results_async)


def through(front: ray_app.Front, path: str = "/v1/completions", body: bytes = b"") -> list[Any]:
    """What a front sends."""
    sent: list[Any] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        scope = {"method": "POST", "path": path, "headers": []}
        reply = await front(None)  # type: ignore[arg-type]
        await reply(scope, receive, send)

    asyncio.run(run())
    return sent


def body_of(prompt: str) -> bytes:
    return json.dumps({"prompt": prompt}).encode()


def test_a_front_hands_the_router_what_it_reads() -> None:
    replicas = FakeReplicas(START, END)
    front = ray_app.Front(replicas)
    body = body_of("p" * _MIN_CHARS)
    assert through(front, body=body) == [START, END]
    assert replicas.stream.is_cancelled
    [([routed], named)] = replicas.calls
    assert routed.prompt == "p" * _MIN_CHARS and routed.call.body == body and not named
    through(front, body=body_of("short"))
    args, named = replicas.calls[1]
    assert not args and named["routed"].call.body == body_of("short")


def test_a_lost_replica_is_a_503_until_the_reply_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_app, "_lost", lambda: OSError)
    for error in (OSError("killed at 10.1.2.3"), TimeoutError("at 10.1.2.3")):
        start, body = through(ray_app.Front(FakeReplicas(error)))
        assert start["status"] == 503 and type(error).__name__.encode() in body["body"]
        assert b"10.1.2.3" not in body["body"]  # for the log, not for clients
        assert (b"retry-after", b"1") in start["headers"]
    with pytest.raises(OSError, match="killed"):
        through(ray_app.Front(FakeReplicas(START, OSError("killed"))))


def test_a_client_that_goes_away_ends_its_request_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not when the garbage collector comes by: the error keeps every frame alive."""
    monkeypatch.setattr(ray_app, "_lost", lambda: OSError)
    replicas = FakeReplicas(START, END)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        raise KeyError("gone")

    async def run() -> None:
        reply = await ray_app.Front(replicas)(None)  # type: ignore[arg-type]
        with pytest.raises(KeyError) as raised:
            await reply({"method": "POST", "path": "/x", "headers": []}, receive, send)
        assert raised.value.args == ("gone",)
        assert replicas.stream.is_cancelled

    asyncio.run(run())


def test_metrics_are_those_of_all_replicas_or_a_refusal() -> None:
    metrics = Metrics()
    metrics.count_refused(429)
    text = {"type": "http.response.body", "body": metrics.text()}
    start, body = through(ray_app.Front(FakeReplicas(START, text)), "/metrics")
    assert start["status"] == 200
    for tag in "ab":
        line = f'pyroclast:requests_refused_total{{replica="{tag}",status="429"}} 1.0'
        assert line.encode() in body["body"]
    refused = START | {"status": 401}
    assert through(ray_app.Front(FakeReplicas(refused, END)), "/metrics") == [refused, END]
