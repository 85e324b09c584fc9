"""Moments that two threads, or a signal, hit once in many thousand times: each forced here."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from fake_model import fake_llm, free_blocks
from pyroclast import AsyncLLM, ClosedError, KernelError, SamplingParams
from pyroclast.engine import pump as pump_module

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
        pump.join(60)
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
        await asyncio.wait_for(anext(stream), 60)

    stream = llm.stream("a", GREEDY)
    if face == "sync":
        monkeypatch.setattr(loop, "check_open", close_behind_the_check)
    with pytest.raises(ClosedError, match="was closed"):
        asyncio.run(work()) if face == "async" else next(stream)
    assert free_blocks(llm) == 64
    deadline = time.monotonic() + 60
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


def test_what_is_queued_while_the_pump_of_a_closed_llm_ends_is_told(monkeypatch):
    """It is queued between the pump's last look at the queue and its end."""
    llm = fake_llm()
    loop = llm._loop
    leaving, queued = threading.Event(), threading.Event()
    real_work = loop.has_work

    def last_look():
        found, pump = real_work(), loop.pump
        is_pump = threading.current_thread().name == "pyroclast-pump"
        if is_pump and pump._idle and loop.closed and not found:
            leaving.set()
            queued.wait(60)
        return found

    def submit(requests):
        """As the real one, closed after its check."""
        loop.check_open()
        llm.close()
        assert leaving.wait(60)
        loop._inbox.extend(requests)
        loop.pump.wake()
        queued.set()

    async def work():
        model = AsyncLLM.of(llm)
        await model.generate("a", GREEDY)
        monkeypatch.setattr(loop, "has_work", last_look)
        monkeypatch.setattr(loop, "submit", submit)
        await asyncio.wait_for(anext(model.stream("a", GREEDY)), 60)

    with pytest.raises(ClosedError, match="was closed"):
        asyncio.run(work())


@pytest.mark.parametrize(
    ("error", "told"),
    [(MemoryError("no stack"), MemoryError), (RuntimeError("limit"), KernelError)],
)
def test_a_pump_whose_thread_cannot_start_tries_again(error, told, monkeypatch):
    llm = fake_llm()

    def start():
        raise error

    def refused(**options):
        return SimpleNamespace(start=start)

    async def work():
        model = AsyncLLM.of(llm)
        with monkeypatch.context() as patch:
            patch.setattr(pump_module, "threading", SimpleNamespace(Thread=refused))
            with pytest.raises(told):
                await model.generate("a", GREEDY)
        [out] = await asyncio.wait_for(model.generate("a", GREEDY), 60)
        return out.token_ids

    assert len(asyncio.run(work())) == 12


def test_a_finalizer_may_wake_a_pump_that_is_being_started(monkeypatch):
    llm = fake_llm()
    started = []

    def start(**options):
        llm._loop.pump.wake()  # as the finalizer of a stream that the collector finds here
        started.append(threading.Thread(**options))
        return started[-1]

    async def work():
        return await AsyncLLM.of(llm).generate("a", GREEDY)

    monkeypatch.setattr(
        pump_module, "threading", SimpleNamespace(Thread=start, RLock=threading.RLock)
    )
    thread = threading.Thread(target=lambda: asyncio.run(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert len(started) == 1


def test_a_pump_whose_steps_all_fail_ends():
    llm = fake_llm()
    AsyncLLM.of(llm)
    loop, n_run = llm._loop, 0
    loop.pump.wake = lambda: None  # its work is done here
    stream = llm.stream("a", GREEDY)
    next(stream)

    def fail():
        nonlocal n_run
        n_run += 1
        raise ZeroDivisionError

    loop.run_for_all, loop.fail_all = fail, lambda error: None
    with pytest.raises(ZeroDivisionError):
        loop.pump._work_through(loop)
    assert n_run == pump_module._MAX_FAILURES


def test_everyone_is_told_of_a_failure_even_if_the_clean_up_fails(monkeypatch):
    llm = fake_llm()
    stream = llm.stream("a", GREEDY)
    next(stream)

    def fail():
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(llm._loop, "_clean_up", fail)
        with pytest.raises(MemoryError):
            llm._loop.fail_all(ValueError("planted"))
    with pytest.raises(ValueError, match="planted"):
        list(stream)


def test_a_hold_may_hold_again_and_forgets_an_interrupted_step():
    """As at the end of the interpreter, where an exit handler forks."""
    llm = fake_llm()
    loop = llm._loop
    loop._busy = threading.get_ident()  # Ctrl-C came before it was taken back
    assert loop.hold(1)
    assert len(llm.generate("a", GREEDY)[0].token_ids) == 12
    assert loop.hold(1)
    loop.release()
    assert len(llm.generate("a", GREEDY)[0].token_ids) == 12
    loop.release()


def test_a_request_that_a_failure_ended_in_the_inbox_never_runs(monkeypatch):
    llm = fake_llm()
    model, loop = AsyncLLM.of(llm), llm._loop
    loop.pump.wake = lambda: None  # its work is done here

    def fail(*_):
        raise MemoryError

    async def work():
        reader = asyncio.create_task(model.score("yes"))
        while not loop._inbox:
            await asyncio.sleep(0.001)
        with monkeypatch.context() as patch:
            patch.setattr(loop.stepper.scheduler, "add", fail)
            with pytest.raises(MemoryError):
                loop.fail_all(ValueError("planted"))
        loop.run_for_all()
        assert llm.model.steps == []
        assert not loop.has_work()
        with pytest.raises(ValueError, match="planted"):
            await reader

    asyncio.run(work())


def test_the_child_of_a_fork_waits_for_a_bell_of_its_own():
    """The parent's thread may have taken the lock of the bell when the process forked."""
    before, llm = pumps(), fake_llm()
    model = AsyncLLM.of(llm)

    async def work():
        return (await model.generate("a", GREEDY))[0].text

    text = asyncio.run(work())
    pump = llm._loop.pump
    bell, pump._idle = pump._bell, True
    pump.renew()  # as in the child
    assert pump._bell is not bell
    assert not pump._idle
    assert asyncio.run(work()) == text
    bell.put(None)  # the thread of before, which this process has
    llm.close()
    for thread in pumps() - before:
        thread.join(60)
    assert not pumps() - before
