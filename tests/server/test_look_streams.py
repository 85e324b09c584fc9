"""Views beside streams: each stream's tokens come on, and too many views are refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pyroclast import AsyncLLM
from pyroclast.model.inspect import Inspector
from pyroclast.server.errors import HttpError
from pyroclast.server.look import Look
from pyroclast.server.look_work import Views
from server_at import RunningServer, serving
from tiny import CONFIGS, random_weights, write_gguf

TOKENS = [(7 * i) % 256 for i in range(160)]
STREAM = {"prompt": [1, 2, 3], "max_tokens": 240, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> AsyncLLM:
    path = tmp_path_factory.mktemp("look") / "tiny.gguf"
    write_gguf(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    return AsyncLLM(path, threads=1, max_batch_tokens=64, speculation="off")


@pytest.fixture(scope="module")
def running(llm: AsyncLLM) -> Iterator[RunningServer]:
    with serving({"tiny": llm}, look=Look()) as running:
        yield running
    llm.llm.close()


def test_a_stream_waits_for_one_piece_of_a_view_at_most(
    running: RunningServer, llm: AsyncLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in steps: between two pieces of views there is a step of the stream."""
    seen: list[str] = []
    forward, read = llm.llm.model.forward, Inspector.read

    def noted_forward(sample: bool = False) -> None:
        seen.append("step")
        # The stream is there for as long as the views are, however late the machine runs these.
        is_late = seen.count("step") > 100 and seen.count("piece") < 60
        time.sleep(0.05 if is_late else 0.003)
        forward(sample)

    def noted_read(self: Inspector, *args: Any) -> None:
        seen.append("piece")
        read(self, *args)

    alone = httpx.post(f"{running.url}/v1/completions", json=STREAM, timeout=60).json()
    monkeypatch.setattr(llm.llm.model, "forward", noted_forward)
    monkeypatch.setattr(Inspector, "read", noted_read)

    def view(_: int) -> int:
        body = {"token_ids": TOKENS, "layers": [0], "mean": True}
        url = f"{running.url}/look/api/attention"
        return httpx.post(url, json=body, timeout=60).status_code

    with ThreadPoolExecutor(4) as pool:
        stream = pool.submit(
            lambda: httpx.post(f"{running.url}/v1/completions", json=STREAM, timeout=60).json()
        )
        views = [pool.submit(view, i) for i in range(6)]
        assert [each.result() for each in views] == [200] * 6
        assert stream.result()["choices"] == alone["choices"]
    assert seen.count("piece") == 60
    first, last = seen.index("step"), len(seen) - seen[::-1].index("step")
    pieces = [i for i in range(first, last) if seen[i] == "piece"]
    assert len(pieces) > 10 and all(seen[i - 1] == "step" for i in pieces)


def test_too_many_views_are_told_to_come_again() -> None:
    async def ask() -> None:
        views, gate = Views(max_views=2), threading.Event()
        tasks = [asyncio.ensure_future(views.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HttpError) as refused:
            await views.run(gate.wait)
        assert refused.value.status == 429 and refused.value.retry_after_s == 1
        gate.set()
        assert await asyncio.gather(*tasks) == [True, True]
        assert await views.run(lambda: 5) == 5  # there is room again
        with pytest.raises(ZeroDivisionError):
            await views.run(lambda: 1 / 0)
        assert await asyncio.gather(*(views.run(gate.is_set) for _ in range(2))) == [True, True]

    asyncio.run(ask())


def test_a_view_that_waits_ends_with_its_client() -> None:
    async def ask() -> None:
        views, gate, ran = Views(max_views=3), threading.Event(), []
        busy = [asyncio.ensure_future(views.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(views.run(lambda: ran.append(1)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(*busy)
        assert await views.run(lambda: 5) == 5
        assert not ran

    asyncio.run(ask())


def test_hostile_values_are_refused_and_never_break_anything(running: RunningServer) -> None:
    values: list[bytes] = [
        b"[" * 50_000 + b"]" * 50_000,
        b"1e400",
        str(2**64).encode(),
        b'"\\ud800"',
        b"[" + b"[]," * 1000 + b"[]]",
        b'"' + b"a" * (1 << 18) + b'"',
    ]
    keys = {
        "attention": ["text", "token_ids", "layers", "mean"],
        "trace": ["messages", "params", "top"],
        "movement": ["a", "words", "model"],
        "tokens": ["text"],
    }
    valid = {"token_ids": [1, 2], "a": {"token_ids": [1]}, "b": {"token_ids": [1]}, "words": ["a"]}
    with httpx.Client(base_url=running.url, timeout=60) as http:
        for path, key in [(path, key) for path, some in keys.items() for key in some]:
            given = {
                k: v for k, v in valid.items() if k not in (key, {"text": "token_ids"}.get(key))
            }
            head = json.dumps(given).encode()[:-1] + b', "' + key.encode() + b'": '
            for value in values:
                answer = http.post(f"/look/api/{path}", content=head + value + b"}")
                said = (path, key, value[:20], answer.text[:300])
                assert answer.status_code in (400, 404), said


def test_a_view_of_a_closed_model_is_told(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "t.gguf", CONFIGS["llama"], random_weights(CONFIGS["llama"]))
    llm = AsyncLLM(path, threads=1)
    with serving({"tiny": llm}, look=Look()) as running:
        llm.llm.close()
        for name in ("layers", "next"):
            answer = httpx.post(
                f"{running.url}/look/api/{name}", json={"token_ids": [1]}, timeout=60
            )
            assert answer.status_code == 503
