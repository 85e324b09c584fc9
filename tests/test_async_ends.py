"""`AsyncLLM` over the fake model: cancelling, closing, draining."""

import asyncio
import gc
import threading
import time
import weakref

import pytest

from fake_model import fake_llm, free_blocks
from pyroclast import AsyncLLM, ClosedError
from pyroclast.engine import async_calls
from slow_models import GREEDY, LONG, idle, tiring_llm, until

# ---- stopping early --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "aclose", "cancel", "cancel generate", "abort"])
def test_work_that_nobody_wants_ends_before_the_next_step(how):
    llm = tiring_llm()

    async def read(model, seen):
        async for chunk in model.stream("abc", LONG, request_id="a"):
            seen.append(chunk)
            if how == "break" and len(seen) == 3:
                break

    async def work():
        model = AsyncLLM.of(llm)
        seen = []
        if how == "break":
            await read(model, seen)
        elif how == "aclose":
            stream = model.stream("abc", LONG)
            seen.append(await anext(stream))
            await stream.aclose()
            assert [out.finish_reason async for out in stream] == []
        elif how == "abort":
            task = asyncio.create_task(read(model, seen))
            await until(lambda: len(seen) > 2)
            assert model.abort("a")
            await task
            assert seen[-1].finish_reason == "abort"
            assert not model.abort("a")
        else:
            job = model.generate("abc", LONG) if how == "cancel generate" else read(model, seen)
            task = asyncio.create_task(job)
            await until(lambda: len(llm.model.steps) > 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        n_steps = len(llm.model.steps)
        await until(lambda: idle(llm))
        assert len(llm.model.steps) <= n_steps + 1
        return model

    model = asyncio.run(work())
    assert len(llm.model.steps) < 60
    assert model._calls._calls == {}


def test_a_stream_that_was_never_begun_costs_nothing():
    llm = fake_llm()

    async def work():
        model = AsyncLLM.of(llm)
        model.stream("abc", LONG)
        stream = model.stream("abc", LONG)
        await stream.aclose()
        assert [chunk async for chunk in stream] == []
        assert stream.completions == []
        gc.collect()
        assert model._calls._calls == {}

    asyncio.run(work())
    assert llm.model.steps == []


def test_an_abort_before_the_prompt_is_queued_ends_it_too():
    llm = fake_llm()

    async def work():
        model = AsyncLLM.of(llm)
        stream = model.stream("abc", LONG, request_id="a")
        assert model.abort("a")
        assert [chunk async for chunk in stream] == []
        assert [out.finish_reason for out in stream.completions] == ["abort"]

    asyncio.run(work())
    assert llm.model.steps == []


def test_an_event_loop_that_ends_takes_its_work_with_it():
    llm = tiring_llm()
    model = AsyncLLM.of(llm)
    kept = []

    async def read_on(stream):  # to where it waits: some chunks may be there already
        async for _ in stream:
            pass

    async def leave():
        kept.append(model.stream("abc", LONG))
        await anext(kept[0])
        kept.append(asyncio.ensure_future(read_on(kept[0])))

    event_loop = asyncio.new_event_loop()
    event_loop.run_until_complete(leave())
    event_loop.close()  # with a task that waits
    deadline = time.monotonic() + 60
    while not idle(llm) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(llm.model.steps) < 60
    kept.clear()


# ---- the end ---------------------------------------------------------------------------------


def test_close_ends_what_runs_and_frees_what_is_owned(monkeypatch):
    llm = tiring_llm()
    monkeypatch.setattr("pyroclast.async_llm.LLM", lambda model, **options: llm)

    async def work():
        model = AsyncLLM("whatever")
        assert repr(model) == "<AsyncLLM fake>"
        waiting = asyncio.create_task(model.generate("abc", LONG))
        stream = model.stream("abc", LONG)
        await anext(stream)
        await model.close()
        assert llm.model.closed
        with pytest.raises(ClosedError, match="was closed"):
            await waiting
        with pytest.raises(ClosedError, match="was closed"):
            async for _ in stream:
                pass
        with pytest.raises(ClosedError, match="was closed"):
            model.stream("abc")
        await model.close()
        assert repr(model) == "<AsyncLLM fake (closed)>"

    asyncio.run(work())
    assert len(llm.model.steps) < 60


def test_closing_a_wrapper_leaves_its_llm_open():
    llm = tiring_llm()

    async def work():
        async with AsyncLLM.of(llm) as model:
            stream = model.stream("abc", LONG)
            await anext(stream)
        with pytest.raises(ClosedError):
            [chunk async for chunk in stream]

    asyncio.run(work())
    llm.model.before_step = lambda: None
    assert len(llm.generate("abc", GREEDY)[0].token_ids) == 12
    assert free_blocks(llm) == 64


def test_draining_lets_finish_what_finishes_in_time(monkeypatch):
    """On a clock of the test's: it stands still until the short answer is there."""
    llm, now_s, ended = fake_llm(), 0.0, threading.Event()
    monkeypatch.setattr(async_calls, "perf_counter", lambda: now_s)

    def wait_for_ever():
        if len(llm.model.steps) > 20:  # the short answer is there, the long one is not
            ended.wait(60)

    async def work():
        nonlocal now_s
        model = AsyncLLM.of(llm)
        short, long = (
            asyncio.create_task(model.generate("a", params))
            for params in (GREEDY, GREEDY.replace(max_tokens=120))
        )
        await until(lambda: len(llm.model.steps) > 2)
        closing = asyncio.create_task(model.close(drain_s=0.7))
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            model.stream("b")
        assert len((await short)[0].token_ids) == 12
        await asyncio.sleep(0.03)  # more than the pause between two looks at the clock
        assert not closing.done() and not long.done()
        now_s = 0.7
        await closing
        ended.set()
        with pytest.raises(ClosedError):
            await long
        await AsyncLLM.of(llm).close(drain_s=60)  # the clock stands: nothing to wait for

    llm.model.before_step = wait_for_ever
    asyncio.run(work())


def test_the_pump_ends_with_its_llm():
    def pumps():
        return [t for t in threading.enumerate() if t.name == "pyroclast-pump"]

    before = pumps()
    llm = fake_llm()
    asyncio.run(AsyncLLM.of(llm).generate("a", GREEDY))
    [pump] = set(pumps()) - set(before)
    llm.close()
    pump.join(60)
    assert not pump.is_alive()
    llm = fake_llm()
    asyncio.run(AsyncLLM.of(llm).generate("a", GREEDY))
    [pump] = set(pumps()) - set(before)
    gone = weakref.ref(llm._loop)
    del llm  # not closed
    deadline = time.monotonic() + 60
    while pump.is_alive() and time.monotonic() < deadline:
        gc.collect()
        pump.join(0.05)
    assert not pump.is_alive()
    assert gone() is None
