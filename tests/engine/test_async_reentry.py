"""AsyncLLM and its pump's thread: calls from the middle of a step, from signal handlers, finalizers
and callbacks, and forks while coroutines wait."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

from fake_model import fake_llm, free_blocks
from pyroclast import LLM, AsyncLLM, ReentryError, SamplingParams
from random_answers import demo_llm
from server_at import serving

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
WAIT_S = 60


def asked(llm: LLM, params: SamplingParams = GREEDY, prompt: str = "x") -> list[int]:
    """The answer through the pump's thread."""

    async def work() -> list[int]:
        async with asyncio.timeout(WAIT_S):
            return (await AsyncLLM.of(llm).generate(prompt, params))[0].token_ids

    return asyncio.run(work())


def stream_of(llm: LLM) -> int:
    async def work() -> int:
        return len([chunk async for chunk in AsyncLLM.of(llm).stream("y", GREEDY)])

    return asyncio.run(work())


CALLS: dict[str, Callable[[LLM], object]] = {
    "generate": lambda llm: llm.generate("y", GREEDY),
    "score": lambda llm: llm.score("yes"),
    "await generate": lambda llm: asked(llm, prompt="y"),
    "await a stream": stream_of,
}
FACES: dict[str, Callable[[LLM, SamplingParams], list[int]]] = {
    "a caller": lambda llm, params: llm.generate("x", params)[0].token_ids,
    "the pump": asked,
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("call", CALLS)
def test_a_processor_that_asks_its_own_model_is_told(face: str, call: str) -> None:
    llm = fake_llm()

    def ask(token_ids: list[int], logits: Any) -> Any:
        CALLS[call](llm)
        return logits

    start_s = time.monotonic()
    with pytest.raises(ReentryError, match="has to use another LLM"):
        FACES[face](llm, GREEDY.replace(logits_processors=[ask]))
    assert time.monotonic() - start_s < WAIT_S / 2
    assert len(FACES[face](llm, GREEDY)) == 12
    assert free_blocks(llm) == 64


@pytest.mark.parametrize("call", CALLS)
def test_a_finalizer_in_a_step_is_told(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_value))
    llm = fake_llm()

    class Asks:
        def __del__(self) -> None:
            CALLS[call](llm)

    def drop(token_ids: list[int], logits: Any) -> Any:
        if len(token_ids) == 3:
            Asks()
            gc.collect()
        return logits

    params = GREEDY.replace(logits_processors=[drop])
    assert len(asked(llm, params, "ab")) == 12
    assert any(isinstance(error, ReentryError) for error in told)
    gc.collect()  # coroutines that were begun in there are told of here
    assert asked(llm) == llm.generate("x", GREEDY)[0].token_ids
    assert free_blocks(llm) == 64


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[..., Any]], None]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler) and None
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("call", ["generate", "score"])
def test_a_signal_handler_may_ask_while_coroutines_wait(
    call: str, on_signal: Callable[[Callable[..., Any]], None]
) -> None:
    """The pump is in the steps; the main thread, where handlers run, is in its event loop."""
    llm = fake_llm()
    expected = asked(llm)
    llm.model.steps.clear()
    found: list[object] = []
    begun = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if not begun.is_set():
            begun.set()
            found.append(CALLS[call](llm))

    def send() -> None:
        if len(llm.model.steps) == 3 and not begun.is_set():
            ident = threading.main_thread().ident
            assert ident is not None and ident != threading.get_ident()
            deadline = time.monotonic() + WAIT_S
            while not begun.is_set():  # again: a thread about to wait is not woken by a signal
                assert time.monotonic() < deadline
                signal.pthread_kill(ident, signal.SIGUSR1)
                begun.wait(0.1)

    on_signal(handle)
    llm.model.before_step = send

    async def work() -> list[list[int]]:
        calls = [AsyncLLM.of(llm).generate("x", GREEDY) for _ in range(3)]
        async with asyncio.timeout(WAIT_S):
            return [answer[0].token_ids for answer in await asyncio.gather(*calls)]

    assert asyncio.run(work()) == [expected] * 3
    assert len(found) == 1


def test_callbacks_of_a_call_may_ask_again() -> None:
    llm, found = fake_llm(), list[list[int]]()
    expected = asked(llm)

    async def work() -> None:
        model = AsyncLLM.of(llm)
        ended = asyncio.Event()

        def again(task: asyncio.Task[Any]) -> None:
            found.append(llm.generate("x", GREEDY)[0].token_ids)  # holds up its own event loop
            ended.set()

        task = asyncio.ensure_future(model.generate("x", GREEDY))
        task.add_done_callback(again)
        async with asyncio.timeout(WAIT_S):
            await ended.wait()
            found.append((await model.generate("x", GREEDY))[0].token_ids)

    asyncio.run(work())
    assert found == [expected] * 2


def in_child(work: Callable[[], object]) -> str:
    """What `work` returns in the child of a fork, which has WAIT_S."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(WAIT_S)
        try:
            answer = str(work())
        except BaseException as error:  # noqa: BLE001 - told to the parent
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        said = answers.read()
    return said or f"ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


def test_forks_while_coroutines_generate() -> None:
    """From the event loop's thread, at any moment of the pump's steps."""
    llm = fake_llm()
    expected = asked(llm)
    llm.model.before_step = lambda: time.sleep(0.001)

    async def work() -> set[str]:
        calls = [asyncio.ensure_future(AsyncLLM.of(llm).generate("x", GREEDY)) for _ in range(8)]
        said = set()
        for i in range(6):
            await asyncio.sleep(0.003 * i)
            said.add(in_child(lambda: llm.generate("x", GREEDY)[0].token_ids))
        async with asyncio.timeout(WAIT_S):
            answers = await asyncio.gather(*calls)
        assert [answer[0].token_ids for answer in answers] == [expected] * 8
        return said

    for said in asyncio.run(work()):
        assert said == str(expected) or said.startswith("ClosedError: this process is the child")


def test_a_fork_in_the_middle_of_a_step_of_the_pump() -> None:
    """The child has the pump's thread alone, and leaves at once."""
    llm, said = fake_llm(), list[str]()

    def fork(token_ids: list[int], logits: Any) -> Any:
        if len(token_ids) == 4:
            said.append(in_child(lambda: llm.generate("x", GREEDY)))
        return logits

    assert len(asked(llm, GREEDY.replace(logits_processors=[fork]))) == 12
    assert len(said) == 1
    assert said[0].startswith(("ReentryError", "ClosedError"))


def test_forks_beside_a_server_that_generates() -> None:
    llm = demo_llm()
    expected = llm.generate("x", GREEDY)[0].token_ids
    body = json.dumps({"prompt": "x", "max_tokens": 12, "temperature": 0, "ignore_eos": True})
    answers: list[tuple[int, Any]] = []
    with serving({"demo": AsyncLLM.of(llm)}) as running:

        def client() -> None:
            # Without httpx: a fork while it makes the context of TLS that it always makes leaves a
            # lock of OpenSSL held in the child.
            address = urlsplit(running.url)
            for _ in range(4):
                connection = HTTPConnection(address.hostname or "", address.port, timeout=60)
                with contextlib.closing(connection):
                    connection.request(
                        "POST", "/v1/completions", body, {"Content-Type": "application/json"}
                    )
                    reply = connection.getresponse()
                    answers.append((reply.status, json.load(reply)))

        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        said = set()
        for i in range(6):
            time.sleep(0.004 * i)
            said.add(in_child(lambda: llm.generate("x", GREEDY)[0].token_ids))
        for thread in threads:
            thread.join(WAIT_S)
    assert [status for status, _ in answers] == [200] * 12
    assert len({answer["choices"][0]["text"] for _, answer in answers}) == 1
    for each in said:
        assert each == str(expected) or each.startswith("ClosedError: this process is the child")
