"""More requests than the server can take at once, and clients that do not read, over HTTP."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from demo import demo_path
from pyroclast import AsyncLLM
from server_at import HELLO, RunningServer, serving

CHAT = "/v1/chat/completions"
WAIT_S = 60


@pytest.fixture(scope="module")
def llm() -> AsyncLLM:
    """One sequence at a time, and two that wait."""
    return AsyncLLM(demo_path(), max_seqs=1, max_queued_requests=2)


@pytest.fixture(scope="module")
def running(llm: AsyncLLM) -> Iterator[RunningServer]:
    with serving({"demo": llm}) as running:
        yield running


def wait(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def shrink_buffer(running: RunningServer, peer: Any) -> None:
    """Lets the kernel keep little of what is sent to `peer`; by itself it takes megabytes."""

    def theirs() -> list[Any]:
        found = [each.transport for each in tuple(running.server.server_state.connections)]
        return [each for each in found if each.get_extra_info("peername") == peer]

    wait(theirs)
    theirs()[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def test_a_full_queue_is_429_and_batch_goes_last(
    llm: AsyncLLM, running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request holds the step; of two that wait, the first may wait longer; the next is
    refused."""
    model, order = llm.llm.model, list[str]()
    forward, entered, go = model.forward, threading.Event(), threading.Event()

    def held(sample: bool = False) -> None:
        entered.set()
        assert go.wait(WAIT_S)
        forward(sample)

    monkeypatch.setattr(model, "forward", held)

    def ask(name: str, priority: int) -> httpx.Response:
        body = {"messages": HELLO, "max_tokens": 40, "ignore_eos": True, "priority": priority}
        answer = httpx.post(running.url + CHAT, json=body, timeout=WAIT_S)
        order.append(name)
        return answer

    def n_queued() -> int:
        return llm.llm._loop.queued()[0]

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, "first", 0)]
        wait(entered.is_set)
        asked.append(pool.submit(ask, "batch", 1))
        wait(lambda: n_queued() == 1)
        asked.append(pool.submit(ask, "interactive", 0))
        wait(lambda: n_queued() == 2)
        refused = ask("refused", 0)
        go.set()
        assert all(each.result().is_success for each in asked)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "queue_full"
    assert order == ["refused", "first", "interactive", "batch"]


def test_who_does_not_read_pauses_alone_and_loses_nothing(
    llm: AsyncLLM, running: RunningServer
) -> None:
    """It even gives up its place, the only one, while its buffers are full."""
    body = {"messages": HELLO, "max_tokens": 250, "ignore_eos": True, "seed": 1}
    body |= {"logprobs": True, "top_logprobs": 20}
    whole = httpx.post(running.url + CHAT, json=body, timeout=WAIT_S).json()
    raw = json.dumps(body | {"stream": True}).encode()
    host, port = running.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(WAIT_S)
        connection.connect((host, int(port)))
        shrink_buffer(running, connection.getsockname())
        head = f"POST {CHAT} HTTP/1.0\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
        connection.sendall(head.encode() + raw)
        wait(lambda: any(call.is_paused for call in llm._calls._calls.values()))
        other = httpx.post(running.url + CHAT, json={"messages": HELLO, "max_tokens": 3})
        assert other.json()["usage"]["completion_tokens"] == 3
        with connection.makefile("rb") as reply:
            lines = [line[6:] for line in reply if line.startswith(b"data: {")]
    found: list[Any] = [json.loads(line)["choices"][0] for line in lines]
    text = "".join(choice["delta"].get("content", "") for choice in found)
    [choice] = whole["choices"]
    assert text == choice["message"]["content"]
    tokens = [each for one in found if one["logprobs"] for each in one["logprobs"]["content"]]
    assert tokens == choice["logprobs"]["content"]
