"""Looking inside the model while requests go on: what is seen, and what the others notice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast import LLM, AsyncLLM, SamplingParams
from pyroclast.engine import inspection
from pyroclast.engine.inspection import PIECE_TOKENS, inspect
from pyroclast.errors import (
    ClosedError,
    ContextOverflowError,
    NumericalError,
    QueueFullError,
    ReentryError,
    RequestError,
)
from pyroclast.model.inspect import Inspector, inspect_step
from stepping import load
from tiny import CONFIGS, random_weights, write_gguf

TOKENS = np.random.default_rng(7).integers(0, 256, 70).tolist()
N_PIECES = -(-len(TOKENS) // PIECE_TOKENS)
ENDLESS = SamplingParams(temperature=0, max_tokens=120, ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    return write_gguf(path, CONFIGS["llama"], random_weights(CONFIGS["llama"]), "Q8_0")


@pytest.fixture
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, threads=1, max_batch_tokens=64, n_blocks=32, speculation="off") as llm:
        yield llm


@pytest.fixture(scope="module")
def want(path: Path) -> Any:
    return inspect_step(load(path), TOKENS)


def check_equal(got: Any, want: Any) -> None:
    np.testing.assert_array_equal(got.embedding, want.embedding)
    for ours, theirs in zip(got.layers.values(), want.layers.values(), strict=True):
        for field in ("state", "between_parts", "from_attention", "from_feed_forward", "probs"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def watch(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens from now on: "step" and "piece", in order."""
    seen: list[str] = []
    forward, read = llm.model.forward, Inspector.read

    def noted_forward(sample: bool = False) -> None:
        seen.append("step")
        forward(sample)

    def noted_read(self: Inspector, *args: Any) -> None:
        seen.append("piece")
        read(self, *args)

    monkeypatch.setattr(llm.model, "forward", noted_forward)
    monkeypatch.setattr(Inspector, "read", noted_read)
    return seen


def check_never_two_in_a_row(seen: list[str]) -> None:
    pieces = [i for i, each in enumerate(seen) if each == "piece"]
    last_step = len(seen) - seen[::-1].index("step")
    assert all(seen[i - 1] == "step" for i in pieces if i < last_step)


def test_an_idle_model_is_seen_as_it_is(llm: LLM, want: Any) -> None:
    n_available = llm._loop.stepper.scheduler.pool.n_available
    check_equal(inspect(llm._loop, TOKENS), want)
    some = inspect(llm._loop, TOKENS, layers=[1], positions=[40], attention=False)
    np.testing.assert_array_equal(some.layers[1].state, want.layers[1].state[[40]])
    assert llm._loop.stepper.scheduler.pool.n_available == n_available


def test_a_stream_waits_for_one_piece_at_most(
    llm: LLM, want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [alone] = llm.generate([1, 2, 3], ENDLESS)
    seen = watch(llm, monkeypatch)
    with llm.stream([1, 2, 3], ENDLESS) as stream:
        first = next(iter(stream))
        for _ in range(3):
            check_equal(inspect(llm._loop, TOKENS), want)
        tokens = first.token_ids + [i for chunk in stream for i in chunk.token_ids]
    assert tokens == alone.token_ids
    assert seen.count("piece") == 3 * N_PIECES
    check_never_two_in_a_row(seen)


def test_coroutines_and_several_views_at_once(
    llm: LLM, want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [alone] = llm.generate([1, 2, 3], ENDLESS)
    seen = watch(llm, monkeypatch)

    async def both() -> tuple[Any, ...]:
        asynchronous = AsyncLLM.of(llm)
        looks = [asyncio.to_thread(inspect, llm._loop, TOKENS) for _ in range(2)]
        return await asyncio.gather(asynchronous.generate([1, 2, 3], ENDLESS), *looks)

    [answer], *found = asyncio.run(both())
    assert answer.token_ids == alone.token_ids
    for each in found:
        check_equal(each, want)
    check_never_two_in_a_row(seen)


@pytest.mark.parametrize("n_times", [1, 8])
def test_blocks_that_requests_take_back_make_it_begin_again(
    llm: LLM, want: Any, monkeypatch: pytest.MonkeyPatch, n_times: int
) -> None:
    pool, read, firsts = llm._loop.stepper.scheduler.pool, Inspector.read, list[int]()

    def greedy(self: Inspector, first: int, *args: Any) -> None:
        read(self, first, *args)
        firsts.append(first)
        if first == PIECE_TOKENS and firsts.count(first) <= n_times:
            pool.give_back(pool.take(pool.n_free + 1))  # as a request would

    monkeypatch.setattr(Inspector, "read", greedy)
    if n_times == 1:
        check_equal(inspect(llm._loop, TOKENS), want)
        assert firsts == [0, 16, 0, 16, 32, 48, 64]
    else:
        with pytest.raises(QueueFullError, match="leave no 3 cache blocks"):
            inspect(llm._loop, TOKENS)
        assert firsts == [0, 16] * 8
    assert pool.n_free == pool.n_blocks


def test_no_room_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MAX_WAIT_S", 0.0)
    with LLM(path, threads=1, n_blocks=4, prefix_cache=False, speculation="off") as llm:
        with llm.stream([5] * 60, ENDLESS.replace(max_tokens=30)) as stream:
            next(iter(stream))
            with pytest.raises(QueueFullError, match="leave no 3 cache blocks"):
                inspect(llm._loop, TOKENS)
        inspect(llm._loop, TOKENS)
        with pytest.raises(ContextOverflowError, match="at most 128 tokens"):
            inspect(llm._loop, TOKENS + TOKENS)


def test_a_paused_stream_makes_room(path: Path, want: Any) -> None:
    """It is computed again when somebody reads on."""
    params = ENDLESS.replace(max_tokens=180)
    with LLM(path, threads=1, n_blocks=10, prefix_cache=False, speculation="off") as llm:
        [alone] = llm.generate([5] * 30, params)
        stream = llm.stream([5] * 30, params)
        first = next(iter(stream)).token_ids
        llm.generate([7] * 8, ENDLESS.replace(max_tokens=150))  # meanwhile nobody reads
        assert stream._call.is_paused
        check_equal(inspect(llm._loop, TOKENS), want)
        rest = [i for chunk in stream for i in chunk.token_ids]
        assert first + rest == alone.token_ids


def test_a_reset_of_the_cache_in_the_middle_changes_nothing(
    llm: LLM, want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, n_calls = Inspector.read, 0

    def interrupted(self: Inspector, *args: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        read(self, *args)
        if n_calls == 2:
            llm._loop.stepper.distrust()  # as after Ctrl-C

    monkeypatch.setattr(Inspector, "read", interrupted)
    check_equal(inspect(llm._loop, TOKENS), want)
    assert n_calls == 2 + N_PIECES
    pool = llm._loop.stepper.scheduler.pool
    assert pool.n_free == pool.n_blocks


def test_an_interrupted_piece_leaves_nothing_behind(
    llm: LLM, want: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Inspector, "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            inspect(llm._loop, TOKENS)
    pool = llm._loop.stepper.scheduler.pool
    assert pool.n_available == pool.n_blocks
    check_equal(inspect(llm._loop, TOKENS), want)


def test_states_that_are_not_finite_are_an_error_and_are_cleared(path: Path) -> None:
    with LLM(path, threads=1, n_blocks=8, speculation="off") as llm:
        norm = llm.model._weights.layers[1].ffn_norm.weight
        norm[3] = np.nan
        with pytest.raises(NumericalError, match="layer 1"):
            inspect(llm._loop, TOKENS[:5])
        norm[3] = 1
        assert all(
            np.isfinite(array.astype(np.float32)).all()
            for block in range(8)
            for array in llm.model.block_arrays(block)
            if array.dtype.kind == "f"
        )


def test_the_end_and_the_middle_of_a_step_are_told(path: Path, llm: LLM) -> None:
    def looks(_: Any, logits: Any) -> Any:
        inspect(llm._loop, TOKENS)
        return logits

    with pytest.raises(ReentryError):
        llm.generate([1], SamplingParams(max_tokens=1, logits_processors=(looks,)))
    with pytest.raises(RequestError, match="at least one token"):
        inspect(llm._loop, [])
    llm.close()
    with pytest.raises(ClosedError, match="was closed"):
        inspect(llm._loop, TOKENS)


def test_the_child_of_a_fork_looks_too(llm: LLM, want: Any) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check_equal(inspect(llm._loop, TOKENS), want)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    check_equal(inspect(llm._loop, TOKENS), want)
