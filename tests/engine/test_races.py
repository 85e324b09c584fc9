"""Moments that two threads, or a signal, hit once in many thousand times: each forced here."""

import asyncio
import threading
import time

import pytest

from fake_model import fake_llm, free_blocks
from pyroclast import AsyncLLM, ClosedError, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def pumps():
    return {thread for thread in threading.enumerate() if thread.name == "pyroclast-pump"}


def test_a_pump_that_falls_asleep_while_its_llm_is_closed_ends(monkeypatch):
    before, llm = pumps(), fake_llm()
    loop, n_asked = llm._loop, 0
    real = loop.has_work

    def close_at_the_end_of_work():
        """As another thread would, just before the pump says that it is idle."""
        nonlocal n_asked
        found = real()
        if not found and threading.current_thread().name == "pyroclast-pump":
            n_asked += 1
            if n_asked == 1:
                llm.close()
        return found

    monkeypatch.setattr(loop, "has_work", close_at_the_end_of_work)

    async def work():
        return await AsyncLLM.of(llm).generate("a", GREEDY)

    assert len(asyncio.run(work())[0].token_ids) == 12
    [pump] = pumps() - before or [None]
    if pump is not None:
        pump.join(20)
        assert not pump.is_alive()
    assert n_asked >= 1


def test_closing_starts_no_thread():
    before, llm = pumps(), fake_llm()
    model = AsyncLLM.of(llm)
    started = []
    llm._loop.pump._start = started.append
    asyncio.run(model.close())
    llm.close()
    assert (started, pumps() - before) == ([], set())


@pytest.mark.parametrize("face", ["sync", "async"])
def test_what_is_queued_while_another_thread_closes_is_told(face, monkeypatch):
    llm = fake_llm()
    loop = llm._loop
    real = loop.check_open

    def close_behind_the_check():
        real()
        monkeypatch.setattr(loop, "check_open", real)
        llm.close()

    async def work():
        model = AsyncLLM.of(llm)
        stream = model.stream("a", GREEDY)
        monkeypatch.setattr(loop, "check_open", close_behind_the_check)
        await asyncio.wait_for(anext(stream), 20)

    stream = llm.stream("a", GREEDY)
    if face == "sync":
        monkeypatch.setattr(loop, "check_open", close_behind_the_check)
    with pytest.raises(ClosedError, match="was closed"):
        asyncio.run(work()) if face == "async" else next(stream)
    assert free_blocks(llm) == 64
    deadline = time.monotonic() + 20
    while loop.has_work() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not loop.has_work()


def test_an_error_that_comes_between_two_turns_is_raised():
    """Another thread runs the step in which the request fails."""
    llm = fake_llm()
    real = llm._loop._turn

    def turn(call):
        real(call)
        llm._loop.fail_all(ValueError("planted"))

    llm._loop._turn = turn
    with pytest.raises(ValueError, match="planted"):
        llm.generate("a", GREEDY)
    assert free_blocks(llm) == 64
