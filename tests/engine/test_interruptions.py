"""An exception out of each function that a step is made of, before or after its work."""

import asyncio
import contextlib
import functools
import threading

import pytest

from fake_model import fake_llm, free_blocks
from pyroclast import AsyncLLM, PyroclastError, SamplingParams
from pyroclast.engine import loop as loop_module

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
# Where a function lives, from the LLM.
SEAM = {
    "model": ("forward", "zero_blocks"),
    "_loop": ("_clean_up", "_end_all", "_wake", "_step"),
    "_loop.stepper": ("add", "end", "_decode", "_plan_and_run", "_collect", "_settle", "_finish"),
    "_loop.stepper._speculator": ("drafts", "keep", "forget"),
    "_loop.stepper.scheduler": ("schedule", "add", "remove", "_admit", "_give_back"),
    "_loop.stepper.scheduler.waiting": ("add", "pop", "remove"),
    "tokenizer": ("decoder",),
}


@pytest.fixture(scope="module")
def expected():
    llm = fake_llm()
    return {text: llm.generate(text, GREEDY)[0].token_ids for text in ("one", "two", "three")}


class Fault:
    """Makes the `n`-th call of a function raise, before or after its work."""

    def __init__(self, owner, name, n, error, *, after):
        self.left, self.error, self.after = n, error, after
        self.real = getattr(owner, name)
        setattr(owner, name, functools.wraps(self.real)(self))

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise self.error
        found = self.real(*args, **kwargs)
        if self.left == 0:
            raise self.error
        return found


def owner_of(llm, path):
    return functools.reduce(getattr, path.split("."), llm)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, PyroclastError])
@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in SEAM.items() for name in names]
)
def test_a_neighbour_and_the_model_go_on(path, name, error, after, expected):
    for n in (1, 2, 3, 5):
        llm = fake_llm(n_blocks=12, speculation="suffix")
        stream = llm.stream("one", GREEDY)
        read = [next(stream).token_ids[0]]
        given_up = llm.stream("two", GREEDY)
        next(given_up)
        owner = owner_of(llm, path)
        fault = Fault(owner, name, n, error("planted"), after=after)
        try:
            given_up.close()
            [out] = llm.generate("three", GREEDY)
            assert out.token_ids == expected["three"]
        except (error, PyroclastError):
            assert fault.left <= 0
        setattr(owner, name, fault.real)
        try:
            read += [chunk.token_ids[0] for chunk in stream]
            assert read == expected["one"]
        except PyroclastError as told:
            assert "planted" in str(told) or "interrupted" in str(told)  # noqa: PT017
        [again] = llm.generate("three", GREEDY)
        assert again.token_ids == expected["three"]
        del given_up, stream
        assert free_blocks(llm) == 12
        assert not llm._loop.has_work()
        llm.close()
        assert llm.model.closed


@pytest.mark.parametrize("name", ["_clean_up", "_end_all", "_wake", "_free"])
def test_a_close_that_was_interrupted_is_done_by_the_next(name):
    llm = fake_llm()
    stream = llm.stream("one", GREEDY)
    next(stream)
    fault = Fault(llm._loop, name, 1, KeyboardInterrupt(), after=True)
    with pytest.raises(KeyboardInterrupt):
        llm.close()
    assert fault.left == 0
    llm.close()
    assert llm.model.closed
    assert free_blocks(llm) == 64
    with pytest.raises(PyroclastError, match="was closed"):
        list(stream)


def test_ctrl_c_while_a_step_of_anothers_is_told_leaves_the_lock_usable(monkeypatch):
    """A thread runs steps for a coroutine, and is interrupted while it wakes it."""
    llm = fake_llm()
    waiting, read = threading.Event(), []
    real = loop_module.wake

    def interrupted(calls):
        if threading.current_thread() is threading.main_thread():
            monkeypatch.setattr(loop_module, "wake", real)
            raise KeyboardInterrupt
        return real(calls)

    async def work():
        model = AsyncLLM.of(llm)
        async for chunk in model.stream("one", GREEDY):
            read.append(chunk.token_ids[0])
            if len(read) == 3:
                waiting.set()

    llm.model.before_step = lambda: waiting.wait(0.002)
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    monkeypatch.setattr(loop_module, "wake", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        llm.generate("two", GREEDY)
    monkeypatch.setattr(loop_module, "wake", real)
    assert len(llm.generate("two", GREEDY)[0].token_ids) == 12
    thread.join(60)
    assert not thread.is_alive()
    assert len(read) == 12


def test_what_a_request_brought_in_is_told_to_its_owner_alone():
    """The tokenizer cannot decode what one request got, in a step that another one runs."""
    llm = fake_llm()
    expected = fake_llm().generate("two", GREEDY)[0].token_ids
    stream = llm.stream("one", GREEDY)
    next(stream)
    [request] = llm._loop.stepper.scheduler.requests()

    def broken(token_id):
        raise ValueError("no such token")

    request._step_text = broken
    assert llm.generate("two", GREEDY)[0].token_ids == expected
    with pytest.raises(ValueError, match="no such token"):
        list(stream)
    assert free_blocks(llm) == 64


def test_a_second_ctrl_c_in_the_repair_does_not_hide_what_is_half_changed():
    llm = fake_llm()
    expected = fake_llm().generate("two", GREEDY)[0].token_ids
    stream = llm.stream("one", GREEDY)
    next(stream)
    stepper = llm._loop.stepper
    [request] = stepper.scheduler.requests()
    Fault(request, "_step_text", 1, KeyboardInterrupt(), after=True)
    Fault(stepper.scheduler, "restart_all", 1, KeyboardInterrupt(), after=False)
    with pytest.raises(KeyboardInterrupt):
        llm.generate("two", GREEDY)
    assert llm.generate("two", GREEDY)[0].token_ids == expected
    with pytest.raises(PyroclastError, match="interrupted between two tokens"):
        list(stream)
    assert free_blocks(llm) == 64


def test_a_request_that_is_lost_between_two_queues_goes_on(expected):
    """Ctrl-C comes while another one's step moves it; nobody else runs a step."""
    llm = fake_llm()
    stream = llm.stream("one", GREEDY)
    read = [next(stream).token_ids[0]]
    stepper = llm._loop.stepper
    [request] = stepper.scheduler.running
    stepper.scheduler.running.clear()
    stepper.distrust()
    assert llm._loop.has_work()
    llm._loop.run_for_all()
    assert list(stepper.scheduler.requests()) == [request]
    read += [chunk.token_ids[0] for chunk in stream]
    assert read == expected["one"]
    assert free_blocks(llm) == 64
    assert not llm._loop.has_work()


def test_a_request_whose_end_was_interrupted_is_forgotten():
    llm = fake_llm()
    stream = llm.stream("one", GREEDY)
    next(stream)
    stepper = llm._loop.stepper
    [request] = stepper.scheduler.requests()
    stepper.scheduler.remove([request])
    request.call.open.clear()
    stepper.distrust()
    llm._loop.run_for_all()
    assert stepper.calls() == set()
