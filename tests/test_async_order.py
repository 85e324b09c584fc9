"""`AsyncLLM` over the fake model: priorities, slow readers, and texts that stay the same."""

import asyncio
import threading

import numpy as np
import pytest

from fake_model import fake_llm, free_blocks
from pyroclast import AsyncLLM, SamplingParams
from slow_models import GREEDY, LONG, until


def test_interactive_requests_go_before_batch():
    llm, all_are_there = fake_llm(max_seqs=1), threading.Event()
    llm.model.before_step = lambda: len(llm.model.steps) < 3 or all_are_there.wait(60)
    ended = []

    async def note(model, name, **options):
        [out] = await model.generate([ord(name)], GREEDY, **options)
        ended.append(name)
        assert out.token_ids == fake_llm().generate([ord(name)], GREEDY)[0].token_ids

    async def work():
        model = AsyncLLM.of(llm)
        tasks = [asyncio.create_task(note(model, name, priority="batch")) for name in "ab"]
        await until(lambda: len(llm.model.steps) == 3)
        tasks += [asyncio.create_task(note(model, name)) for name in "cd"]
        await until(lambda: llm._loop.queued()[0] == 3)  # behind the first, which runs
        all_are_there.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())
    assert ended == ["c", "d", "a", "b"]


@pytest.mark.parametrize("face", ["async", "sync"])
def test_a_slow_reader_holds_up_itself_only(face, monkeypatch):
    monkeypatch.setattr("pyroclast.engine.call.MAX_UNREAD_CHUNKS", 8)
    llm = fake_llm()
    expected = fake_llm().generate("slow", LONG)[0].token_ids

    def unread(call):
        return len(call.chunks)

    async def asynchronous():
        model = AsyncLLM.of(llm)
        stream = model.stream("slow", LONG)
        found = (await anext(stream)).token_ids
        [other] = await model.generate("other", LONG)
        assert len(other.token_ids) == 100
        await until(lambda: not llm._loop.has_work())
        assert unread(stream._call) in (7, 8)  # the first may have been fetched after the pause
        n_steps = len(llm.model.steps)
        await asyncio.sleep(0.02)
        assert len(llm.model.steps) == n_steps  # nothing runs for nobody
        async for chunk in stream:
            found = found + chunk.token_ids
            assert unread(stream._call) <= 8
        return found

    def synchronous():
        stream = llm.stream("slow", LONG)
        found = next(stream).token_ids
        llm.generate("other", LONG)
        assert unread(stream._call) == 8
        for chunk in stream:
            found = found + chunk.token_ids
            assert unread(stream._call) <= 8
        return found

    assert (asyncio.run(asynchronous()) if face == "async" else synchronous()) == expected
    assert free_blocks(llm) == 64


def test_slow_readers_give_up_their_places_and_still_get_the_same_text(monkeypatch):
    monkeypatch.setattr("pyroclast.engine.call.MAX_UNREAD_CHUNKS", 4)
    llm = fake_llm(max_seqs=2, n_blocks=32)
    expected = [fake_llm().generate([i], LONG)[0].token_ids for i in range(4)]

    async def slow(model, i):
        found = []
        async for chunk in model.stream([i], LONG):
            found += chunk.token_ids
            await asyncio.sleep(0.002)
        return found

    async def work():
        model = AsyncLLM.of(llm)
        return await asyncio.gather(*[slow(model, i) for i in range(4)])

    assert asyncio.run(work()) == expected
    assert free_blocks(llm) == 32


def test_whatever_comes_and_goes_a_text_depends_on_its_prompt_only(monkeypatch):
    """Priorities, pauses, preemption, cancelled neighbours: the seeded texts stay the same."""
    monkeypatch.setattr("pyroclast.engine.call.MAX_UNREAD_CHUNKS", 5)
    llm = fake_llm(n_blocks=40, max_seqs=4, max_batch_tokens=9)
    rng = np.random.default_rng(3)
    jobs = [
        ([int(i) for i in rng.integers(0, 255, rng.integers(1, 60))], int(rng.integers(1, 50)))
        for _ in range(40)
    ]

    def params(i):
        return SamplingParams(temperature=0.9, seed=i, max_tokens=jobs[i][1], ignore_eos=True)

    async def one(model, i):
        await asyncio.sleep(0.003 * (i % 7))
        priority = "batch" if i % 3 else "interactive"
        if i % 4 == 0:
            [out] = await model.generate(jobs[i][0], params(i), priority=priority)
            return out.token_ids
        found = []
        async for chunk in model.stream(jobs[i][0], params(i), priority=priority):
            found += chunk.token_ids
            if i % 4 == 1:
                await asyncio.sleep(0.002)
            if i % 5 == 4 and len(found) > 6:
                return None
        return found

    async def work():
        model = AsyncLLM.of(llm)
        return await asyncio.gather(*[one(model, i) for i in range(len(jobs))])

    found = asyncio.run(work())
    alone = fake_llm()
    for i, token_ids in enumerate(found):
        if token_ids is not None:
            assert token_ids == alone.generate(jobs[i][0], params(i))[0].token_ids
    assert llm._loop.stepper.scheduler.n_preemptions > 0
    assert free_blocks(llm) == 40
