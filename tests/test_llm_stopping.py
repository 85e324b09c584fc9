"""Calls over the fake model that end early, and calls of several threads."""

import gc
import threading
import time

import numpy as np
import pytest

from fake_model import (
    BOS,
    GREEDY,
    by_hand,
    fake_llm,
    free_blocks,
    hashed,
)
from pyroclast import (
    ClosedError,
    KernelError,
    NumericalError,
    SamplingParams,
)

# ---- stopping early ------------------------------------------------------------------------------


def test_closing_a_stream_frees_its_blocks_and_stops_its_work():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    next(stream)
    assert free_blocks(llm) < 64
    stream.close()
    assert free_blocks(llm) == 64
    assert list(stream) == []
    assert len(llm.model.steps) == 1
    assert [out.finish_reason for out in stream.completions] == ["abort"]
    assert stream.completions[0].token_ids == by_hand([BOS, *b"abc"], 1)


def test_a_stream_closed_before_its_first_chunk_never_begins():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    stream.close()
    assert list(stream) == []
    with llm.stream("abc", GREEDY) as left:
        pass
    assert next(left, None) is None
    assert [out.finish_reason for out in stream.completions] == ["abort"]
    llm.generate("abc", GREEDY)
    assert [n_seqs for _, n_seqs, _ in llm.model.steps] == [1] * 12
    assert free_blocks(llm) == 64


def test_a_stream_that_is_dropped_or_left_stops():
    llm = fake_llm()
    for _ in llm.stream("abc", GREEDY):
        break
    gc.collect()
    assert free_blocks(llm) == 64
    with llm.stream("abc", GREEDY) as stream:
        next(stream)
    assert free_blocks(llm) == 64
    llm.stream("abc", GREEDY)  # never begun
    assert not llm._loop.stepper.scheduler


def test_a_stream_keeps_its_model_alive():
    assert len(list(fake_llm().stream("abc", GREEDY))) == 12


def test_close_during_a_step_takes_effect_at_the_next():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    next(stream)
    llm.model.before_step = stream.close  # as a finalizer that runs inside a step would
    [out] = llm.generate("x", GREEDY)
    assert len(out.token_ids) == 12
    assert [n_seqs for _, n_seqs, _ in llm.model.steps] == [1, 2] + [1] * 11
    assert free_blocks(llm) == 64


def test_ctrl_c_during_a_long_prompt_stops_it_and_nothing_else():
    llm = fake_llm()
    other = llm.stream("abc", GREEDY)
    begun = [next(other).token_ids[0], next(other).token_ids[0]]
    n_before = len(llm.model.steps)

    def interrupt():
        if len(llm.model.steps) == n_before + 2:
            llm.model.before_step = lambda: None
            raise KeyboardInterrupt

    llm.model.before_step = interrupt
    with pytest.raises(KeyboardInterrupt):
        llm.generate([1] * 100, GREEDY)
    assert len(llm.model.steps) == n_before + 2
    assert begun + [chunk.token_ids[0] for chunk in other] == by_hand([BOS, *b"abc"], 12)
    assert free_blocks(llm) == 64


@pytest.mark.parametrize(("where", "call"), [("token_ids", 4), ("_give", 4), ("_finish", 2)])
def test_ctrl_c_at_any_place_leaves_the_llm_usable(where, call, monkeypatch):
    llm = fake_llm()
    other = llm.stream("abc", GREEDY)
    begun = [next(other).token_ids[0]]
    stepper = llm._loop.stepper
    owners = {"token_ids": stepper._results, "_give": stepper._outcome, "_finish": stepper}
    owner = type(owners[where])
    real = getattr(owner, where)
    n_calls = 0

    def interrupted(*args):
        nonlocal n_calls
        n_calls += 1
        if n_calls == call:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(owner, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.generate([[1, 2]] * 9, GREEDY.replace(max_tokens=3))
    if where != "_give":  # there, the stream itself may be the one that is half done
        assert begun + [chunk.token_ids[0] for chunk in other] == by_hand([BOS, *b"abc"], 12)
    other.close()
    [out] = llm.generate([3, 4], GREEDY)
    assert out.token_ids == by_hand([3, 4], 12)
    assert free_blocks(llm) == 64


def test_nan_ends_the_requests_of_the_step_and_names_the_layer():
    def poisoned(history):
        return hashed(history) * np.float32(np.nan if 99 in history else 1)

    llm = fake_llm(poisoned)
    healthy = llm.stream([1, 2], GREEDY)
    first = next(healthy)
    sick = llm.stream([99, 2], GREEDY)
    with pytest.raises(NumericalError, match=r"layer 3 \(matmul\)"):
        next(sick)
    assert llm.model.zeroed
    with pytest.raises(NumericalError):
        llm.generate([[1], [99]], GREEDY)
    with pytest.raises(NumericalError):
        llm.score([99, 1, 2])
    with pytest.raises(NumericalError):
        llm.logits([99, 1, 2])
    assert [i for c in [first, *healthy] for i in c.token_ids] == by_hand([1, 2], 12)
    assert free_blocks(llm) == 64


def test_an_error_of_the_model_reaches_everybody_in_the_step():
    llm = fake_llm()
    stream = llm.stream("abc", GREEDY)
    next(stream)

    def fail():
        raise KernelError("broken kernel")

    llm.model.before_step = fail
    with pytest.raises(KernelError, match="broken kernel"):
        llm.generate("x", GREEDY)
    with pytest.raises(KernelError, match="broken kernel"):
        next(stream)
    llm.model.before_step = lambda: None
    assert free_blocks(llm) == 64
    assert len(llm.generate("x", GREEDY)) == 1


def test_use_after_close():
    with fake_llm() as llm:
        stream = llm.stream("abc", GREEDY)
        unbegun = llm.stream("abc", GREEDY)
        next(stream)
    assert llm.model.closed
    llm.close()
    for call in (
        lambda: llm.generate("x"),
        lambda: llm.stream("x"),
        lambda: llm.score("x"),
        lambda: llm.logits("x"),
        lambda: llm.chat([{"role": "user", "content": "x"}]),
        lambda: next(stream),
        lambda: next(unbegun),
    ):
        with pytest.raises(ClosedError, match="was closed"):
            call()


# ---- threads, streams side by side ---------------------------------------------------------------


def test_streams_and_batches_interleave():
    llm = fake_llm()
    a, b = llm.stream([1], GREEDY), llm.stream([2], GREEDY)
    tokens = {1: [], 2: []}
    for chunk_a, chunk_b in zip(a, b, strict=True):
        tokens[1] += chunk_a.token_ids
        tokens[2] += chunk_b.token_ids
        if len(tokens[1]) == 4:
            [out] = llm.generate([3], GREEDY)
            assert out.token_ids == by_hand([3], 12)
    assert tokens == {1: by_hand([1], 12), 2: by_hand([2], 12)}


def test_threads_share_one_llm():
    llm = fake_llm()
    found, n_threads, deadline = {}, 4, time.monotonic() + 60

    def wait_for_all():
        """The first step waits for the other calls, however late the machine runs them."""
        begun = list(llm._loop.stepper.scheduler.requests())
        while not llm.model.steps and len(llm._loop._inbox) + len(begun) < n_threads:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    llm.model.before_step = wait_for_all

    def work(i):
        texts = []
        for k in range(3):
            prompt = [i, k]
            if k == 1:
                texts.append([t for c in llm.stream(prompt, GREEDY) for t in c.token_ids])
            else:
                texts.append(llm.generate([prompt], GREEDY)[0].token_ids)
        found[i] = texts

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {i: [by_hand([i, k], 12) for k in range(3)] for i in range(n_threads)}
    assert max(n_seqs for _, n_seqs, _ in llm.model.steps) > 1
    assert free_blocks(llm) == 64


def test_a_stream_is_served_while_another_thread_generates():
    model_calls = threading.Event()
    llm = fake_llm(max_seq_len=256)
    ended = []

    def long_work():
        llm.generate([1], SamplingParams(max_tokens=250, ignore_eos=True, seed=1))
        ended.append("batch")

    def step_takes_a_while():
        """Ten seconds in all while the stream has not ended: the machine may be busy."""
        model_calls.set()
        time.sleep(0.05 if len(llm.model.steps) > 20 and not ended else 0.002)

    llm.model.before_step = step_takes_a_while
    thread = threading.Thread(target=long_work)
    thread.start()
    assert model_calls.wait(30)
    list(llm.stream([2], GREEDY))
    ended.append("stream")
    thread.join(60)
    assert ended == ["stream", "batch"]


def test_a_stream_can_be_closed_from_another_thread():
    llm = fake_llm()
    stream = llm.stream([1], GREEDY)
    chunks = [next(stream)]
    thread = threading.Thread(target=stream.close)
    thread.start()
    thread.join(30)
    chunks += stream
    assert len(chunks) <= 2
    assert free_blocks(llm) == 64
