"""Ray Serve with two replicas on this machine.

They need a Python with ray[serve] and what the server needs: this one, or the one that
PYROCLAST_CLUSTER_PYTHON names."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo import demo_path
from pyroclast.server import ray_app
from pyroclast.server.prefix_text import _MIN_CHARS

ROOT = Path(__file__).parents[2]
WAIT_S = 120
LONG = [f"Rule {i}: {word} comes before everything else. " * 12 for i, word in enumerate("abcd")]

pytestmark = pytest.mark.slow


def ray_python() -> str:
    if importlib.util.find_spec("ray") is not None:
        return sys.executable
    python = os.environ.get("PYROCLAST_CLUSTER_PYTHON")
    if not python:
        pytest.skip(
            "ray is not installed, and PYROCLAST_CLUSTER_PYTHON names no Python that has it"
        )
    return python


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    python, model = ray_python(), demo_path()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("engine", "kernels"))
    process = subprocess.Popen(
        [
            *(python, ROOT / "tests" / "peers" / "ray_server.py", str(port)),
            *(f"model={model}", "served_model_name=demo", "replicas=2"),
        ],
        env=os.environ | {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        said = []
        while (line := process.stdout.readline()) != "ready\n":
            said.append(line)
            assert line, f"the server did not start: {''.join(said)}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.wait(WAIT_S)
        process.stdout.close()


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=WAIT_S) as client:
        yield client


def complete(http: httpx.Client, prompt: str) -> httpx.Response:
    asked = {"prompt": prompt, "max_tokens": 16, "seed": 7}
    found = http.post("/v1/completions", json=asked)
    assert found.status_code == 200, found.text
    return found


def replica_of(reply: httpx.Response) -> str:
    return reply.headers[ray_app.REPLICA_HEADER]


def sums(http: httpx.Client, name: str) -> dict[str, float]:
    """The values of a metric by replica."""
    found: dict[str, float] = {}
    for line in http.get("/metrics").text.splitlines():
        if line.startswith(name + "{"):
            replica = line.partition('replica="')[2].partition('"')[0]
            found[replica] = found.get(replica, 0.0) + float(line.rpartition(" ")[2])
    return found


def test_both_replicas_answer_and_a_seed_gives_the_same_text(http: httpx.Client) -> None:
    texts: dict[str, set[str]] = {}
    for _ in range(60):
        reply = complete(http, "Once upon a time")
        texts.setdefault(replica_of(reply), set()).add(reply.json()["choices"][0]["text"])
        if len(texts) == 2:
            break
    assert len(texts) == 2
    assert len(set.union(*texts.values())) == 1
    assert set(sums(http, "vllm:generation_tokens_total")) == set(texts)


def test_a_long_prefix_goes_to_the_replica_that_has_it(http: httpx.Client) -> None:
    homes = []
    for prefix in LONG:
        replies = [complete(http, f"{prefix} Question {i}.") for i in range(4)]
        [home] = {replica_of(reply) for reply in replies}
        homes.append(home)
        cached = [
            reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for reply in replies
        ]
        assert not cached[0] and min(cached[1:]) >= 32
    assert len(set(homes)) == 2  # new prefixes are spread


def test_a_stream_comes_in_pieces_and_ends_with_its_client(http: httpx.Client, url: str) -> None:
    asked = {"prompt": "Tell me more.", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=asked) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = reply.iter_lines()
        events = [line for line in (next(lines) for _ in range(12)) if line.startswith("data: ")]
        assert len(events) >= 5
        # The first events are here while the last are far from computed.
        with httpx.Client(base_url=url, timeout=WAIT_S) as other:
            running = sums(other, "vllm:num_requests_running")
            assert running.pop(replica_of(reply)) == 1
            assert list(running.values()) == [0]
    deadline = time.monotonic() + WAIT_S
    while sum(sums(http, "vllm:num_requests_running").values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sum(sums(http, "pyroclast:requests_cancelled_total").values()) == 1
    assert sum(sums(http, "vllm:generation_tokens_total").values()) < 1500


def test_refusals_come_through(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").status_code == 404
    wrong = http.post("/v1/completions", json={"prompt": "x" * _MIN_CHARS, "max_tokens": "many"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "max_tokens"
    assert http.get("/v1/models").json()["data"][0]["id"] == "demo"
    long = http.post("/v1/completions", content=b"x" * ((16 << 20) + 1))
    assert long.status_code == 413
