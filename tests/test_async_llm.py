"""`AsyncLLM` over the fake model: streams, cancelling, the bound on the queue, the end."""

import asyncio
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from fake_model import VOCAB_SIZE, FakeModel, fake_llm, free_blocks, hashed
from pyroclast import (
    AsyncLLM,
    ClosedError,
    ContextOverflowError,
    NumericalError,
    PyroclastError,
    QueueFullError,
    RequestError,
    SamplingParams,
)
from pyroclast.engine import async_calls

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
LONG = GREEDY.replace(max_tokens=100)


def slow_llm(seconds=0.002, **options):
    """A model whose steps take a while."""
    llm = fake_llm(**options)
    llm.model.before_step = lambda: time.sleep(seconds)
    return llm


def tiring_llm():
    """A model whose steps take a while, and longer after the 20th: a test that ends its work early
    has seconds to do so before the 60th, however busy the machine is."""
    llm = fake_llm()
    llm.model.before_step = lambda: time.sleep(0.002 if len(llm.model.steps) < 20 else 0.1)
    return llm


async def until(holds, seconds=60):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)


def idle(llm):
    return not llm._loop.has_work() and free_blocks(llm) == llm.model.n_blocks


# ---- what comes out --------------------------------------------------------------------------


def test_stream_and_generate_give_what_an_llm_gives():
    llm = fake_llm()
    params = GREEDY.replace(logprobs=2, n=2, temperature=0.7, seed=3)
    expected = llm.generate("abc", params)

    async def work():
        async with AsyncLLM.of(llm) as model:
            chunks = [chunk async for chunk in model.stream("abc", params)]
            [*whole] = await model.generate("abc", params)
            return chunks, whole

    chunks, whole = asyncio.run(work())
    for index, out in enumerate(expected):
        mine = [chunk for chunk in chunks if chunk.index == index]
        assert [i for chunk in mine for i in chunk.token_ids] == out.token_ids
        assert "".join(chunk.text for chunk in mine) == out.text
        assert [each for chunk in mine for each in chunk.logprobs] == out.logprobs
        assert [chunk.finish_reason for chunk in mine] == [None] * 11 + ["length"]
        assert [chunk.n_completion_tokens for chunk in mine] == list(range(1, 13))
        assert {chunk.n_prompt_tokens for chunk in mine} == {4}
        assert mine[-1].completion.token_ids == out.token_ids
        assert whole[index].token_ids == out.token_ids


def test_cached_tokens_are_those_of_a_shared_prompt():
    llm = fake_llm(max_batch_tokens=64)

    async def work():
        model = AsyncLLM.of(llm)
        return [c async for c in model.stream(list(range(21)), GREEDY.replace(n=2, seed=1))]

    chunks = asyncio.run(work())
    assert {(c.index, c.n_cached_tokens) for c in chunks} == {(0, 0), (1, 20)}


def test_chat_and_score_give_what_an_llm_gives():
    llm = fake_llm()
    messages = [{"role": "user", "content": "hi"}]

    async def work():
        model = AsyncLLM.of(llm)
        [out] = await model.chat(messages, GREEDY, template={"tools": 1})
        chunks = [c async for c in model.stream_chat(messages, GREEDY, template={"tools": 1})]
        assert [i for c in chunks for i in c.token_ids] == out.token_ids
        return out, await model.score(["some text", [1, 2]], n_top=2)

    out, scores = asyncio.run(work())
    assert out.token_ids == llm.chat(messages, GREEDY, template={"tools": 1})[0].token_ids
    assert scores == llm.score(["some text", [1, 2]], n_top=2)


def test_long_texts_and_messages_are_encoded_beside_the_event_loop(monkeypatch):
    llm = fake_llm(n_blocks=8192, max_seq_len=32768, max_batch_tokens=4096)
    threads = []
    real = llm.tokenizer.encode
    monkeypatch.setattr(
        llm.tokenizer,
        "encode",
        lambda text, **how: threads.append(threading.get_ident()) or real(text, **how),
    )
    params = GREEDY.replace(max_tokens=1)

    async def work():
        model = AsyncLLM.of(llm)
        await model.generate("short", params)
        await model.generate(["x" * 5000, "y" * 5000], params)

    asyncio.run(work())
    here = threading.get_ident()
    assert threads[0] == here
    assert here not in threads[1:]


def test_a_thousand_wait_without_threads_and_from_several_event_loops():
    llm = fake_llm()
    model = AsyncLLM.of(llm)
    found, before = {}, set(threading.enumerate())
    n_threads = []

    async def work(first):
        tasks = [
            model.generate([first, *divmod(i, 250)], GREEDY.replace(max_tokens=2))
            for i in range(500)
        ]
        outs = await asyncio.gather(*tasks)
        n_threads.append(len(set(threading.enumerate()) - before))
        found[first] = [out.token_ids for [out] in outs]

    threads = [threading.Thread(target=asyncio.run, args=(work(i),)) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    alone = fake_llm()
    for first in (1, 2):
        for i in (0, 77, 499):
            [out] = alone.generate([first, *divmod(i, 250)], GREEDY.replace(max_tokens=2))
            assert found[first][i] == out.token_ids
    assert max(n_threads) <= 3  # the two event loops' own, and the pump


def test_threads_and_coroutines_share_one_llm():
    llm = slow_llm()
    stop = threading.Event()
    wrong = []
    [expected] = llm.generate("sync", GREEDY)

    def generate():
        while not stop.is_set():
            [out] = llm.generate("sync", GREEDY)
            if out.token_ids != expected.token_ids:
                wrong.append(out)

    async def work():
        model = AsyncLLM.of(llm)
        outs = await asyncio.gather(*[model.generate([i], GREEDY) for i in range(20)])
        return [out.token_ids for [out] in outs]

    thread = threading.Thread(target=generate)
    thread.start()
    found = asyncio.run(work())
    stop.set()
    thread.join(30)
    assert not wrong
    assert found == [fake_llm().generate([i], GREEDY)[0].token_ids for i in range(20)]


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


# ---- errors ----------------------------------------------------------------------------------


def test_errors_come_before_anything_is_queued():
    llm = fake_llm()

    async def work():
        model = AsyncLLM.of(llm)
        with pytest.raises(RequestError, match="empty"):
            await model.stream("").start()
        with pytest.raises(ContextOverflowError):
            await model.generate([1] * 500)
        with pytest.raises(RequestError, match=f"token id {VOCAB_SIZE}"):
            await model.score([VOCAB_SIZE])
        with pytest.raises(RequestError, match="priority must be one of interactive, batch"):
            model.stream("a", priority="urgent")
        with pytest.raises(RequestError, match="takes one prompt, got 2"):
            await anext(model.stream(["a", "b"]))
        first = model.stream("a", GREEDY, request_id="x")
        with pytest.raises(RequestError, match="request_id 'x'"):
            await model.generate("a", GREEDY, request_id="x")
        first.close()
        await model.generate("a", GREEDY, request_id="x")  # the name is free again
        assert model._calls._calls == {}

    asyncio.run(work())
    with pytest.raises(RequestError, match="max_queued_requests must be"):
        AsyncLLM.of(llm, max_queued_requests=0)
    with pytest.raises(RequestError, match="max_queued_tokens must be"):
        AsyncLLM("no such model", max_queued_tokens=-1)


def test_an_error_of_the_model_reaches_who_waits_and_the_others_go_on():
    def poisoned(history):
        return hashed(history) * (float("nan") if 99 in history else 1)

    llm = fake_llm(poisoned)

    async def work():
        model = AsyncLLM.of(llm)
        sick = [model.generate([99], GREEDY), anext(model.stream([99, 1], GREEDY))]
        healthy = [model.generate([i], GREEDY) for i in range(3)]
        found = await asyncio.gather(*sick, *healthy, return_exceptions=True)
        assert [type(each) for each in found] == [NumericalError] * 2 + [list] * 3

    asyncio.run(work())


def test_whatever_a_step_raises_reaches_who_waits_and_the_pump_goes_on():
    llm = fake_llm()
    raised = [ZeroDivisionError("oops"), SystemExit(3)]

    def fail():
        if raised:
            raise raised.pop(0)

    llm.model.before_step = fail

    async def work():
        model = AsyncLLM.of(llm)
        with pytest.raises(ZeroDivisionError, match="oops"):
            await model.generate("a", GREEDY)
        with pytest.raises(PyroclastError, match=r"SystemExit\(3\)"):
            await model.generate("a", GREEDY)
        [out] = await model.generate("a", GREEDY)
        assert len(out.token_ids) == 12

    asyncio.run(work())
    assert free_blocks(llm) == 64


# ---- the queue -------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_queues_nothing():
    llm = slow_llm(0.1, max_seqs=1)  # the first answer takes ten seconds, unless it is ended

    async def work():
        model = AsyncLLM.of(llm, max_queued_requests=3, max_queued_tokens=20)
        running = model.stream([1], LONG)
        await anext(running)
        waiting = [asyncio.create_task(model.generate([2], GREEDY)) for _ in range(2)]
        await asyncio.sleep(0)
        for prompts in ([[3]] * 4, [[3] * 21]):
            with pytest.raises(RequestError, match="never fit: max_queued_requests is 3"):
                await model.generate(prompts, GREEDY)
        with pytest.raises(QueueFullError, match="2 requests wait, 2 more came, and max_queued_r"):
            await model.generate([[3], [4]], GREEDY)
        with pytest.raises(QueueFullError, match="2 tokens wait, 19 more came, and max_queued_to"):
            await model.stream([3] * 19, GREEDY).start()
        waiting.append(asyncio.create_task(model.generate([3] * 18, GREEDY)))
        await asyncio.sleep(0)
        await running.aclose()
        llm.model.before_step = lambda: None
        assert [len(out.token_ids) for [out] in await asyncio.gather(*waiting)] == [12] * 3

    asyncio.run(work())


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


def test_the_fake_model_is_what_runs():
    assert isinstance(fake_llm().model, FakeModel)


# ---- order, slow readers ---------------------------------------------------------------------


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
