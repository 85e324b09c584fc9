"""`AsyncLLM` over the fake model: what comes out, errors, the bound on the queue."""

import asyncio
import threading

import pytest

from fake_model import VOCAB_SIZE, FakeModel, fake_llm, free_blocks, hashed
from pyroclast import (
    AsyncLLM,
    ContextOverflowError,
    NumericalError,
    PyroclastError,
    QueueFullError,
    RequestError,
)
from slow_models import GREEDY, LONG, slow_llm

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


def test_the_fake_model_is_what_runs():
    assert isinstance(fake_llm().model, FakeModel)
