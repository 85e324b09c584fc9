"""Drafts of a second model: the same text, in fewer steps, and nothing left behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from babble import (
    FLAT,
    LETTERS,
    PARAMS,
    accepted,
    babbles,
    babbling,
    drafted,
    params_of,
    plain,
)
from fake_model import VOCAB_SIZE, FakeModel, fake_llm, free_blocks, hashed
from pyroclast import LLM, KernelError, RequestError, SamplingParams
from pyroclast.engine.draft_costs import STEP_COSTS
from pyroclast.engine.draft_model import DraftModel
from pyroclast.engine.draft_options import DraftOptions, TextThenModel
from pyroclast.engine.draft_speculator import DraftSpeculator
from pyroclast.engine.follower import Follower, Judged
from pyroclast.engine.speculate import Speculator
from pyroclast.llm import assemble
from pyroclast_kernels.sample import new_rows
from random_answers import SpecialByteTokenizer
from recurrent_model import RecurrentModel

LogitsOf = Callable[[Sequence[int]], np.ndarray]
SIZES = {"n_blocks": 256, "max_seq_len": 128, "max_batch_tokens": 64, "max_logits": 64}
GREEDY = SamplingParams(temperature=0, seed=5, max_tokens=60, ignore_eos=True)


def mostly(history: Sequence[int]) -> np.ndarray:
    """As `babbles`, but for every third position."""
    found = babbles(history)
    if len(history) % 3 == 0:
        found[LETTERS.start : LETTERS.stop] = found[LETTERS.start : LETTERS.stop][::-1]
    return found


def never(history: Sequence[int]) -> np.ndarray:
    """Letters that the other model never writes."""
    found = np.zeros(VOCAB_SIZE, np.float32)
    found[120] = 50.0
    return found


class Timed:
    """An LLM whose drafts come from a second model, by a clock that only their steps move."""

    def __init__(
        self,
        logits_of: LogitsOf = mostly,
        *,
        costs: Sequence[float] = FLAT,
        step_s: float = 1.0,
        row_s: float = 0.0,
        draft_s: float = 0.0,
        reading_s: float = 0.0,
        main: FakeModel | None = None,
        sizes: dict[str, int] | None = None,
        **limits: int,
    ) -> None:
        self.now_s = 0.0
        self.model = main or FakeModel(babbles, **{**SIZES, **limits})
        self.second = FakeModel(logits_of, **{**SIZES, **(sizes or {})})

        def step() -> None:
            self.now_s += step_s + row_s * (self.model.batch.n_tokens - 1)

        def draft() -> None:
            self.now_s += draft_s + reading_s * (self.second.batch.n_tokens - 1)

        self.model.before_step, self.second.before_step = step, draft
        self.llm = assemble(self.model, SpecialByteTokenizer(), "fake", "draft", draft=self.second)
        self.draft = DraftModel(self.second, VOCAB_SIZE)
        self.speculator = DraftSpeculator(self.draft, 0.0, costs, lambda: self.now_s)
        self.llm._loop.stepper._speculator = self.speculator

    def is_empty(self) -> bool:
        """Whether no model holds anything of a text, but for the prefix cache."""
        pool = self.draft.pool
        free = free_blocks(self.llm) == self.model.n_blocks
        return free and pool.n_free == pool.n_blocks and len(self.draft) == 0


@pytest.mark.parametrize("name", PARAMS)
def test_the_text_is_the_same_in_fewer_steps(name: str) -> None:
    params = [params_of(name, seed) for seed in range(3)]
    off, on = babbling(), Timed()
    expected = [off.generate("The prompt", each)[0] for each in params]
    found = [on.llm.generate("The prompt", each)[0] for each in params]
    assert plain(found) == plain(expected)
    assert 0 < accepted(found) < drafted(found)
    assert all(out.timings.drafts["draft"].n_drafted for out in found)
    assert len(on.model.steps) < len(off.model.steps)  # type: ignore[attr-defined]
    assert on.is_empty()


@pytest.mark.parametrize("name", ["greedy", "sampled", "cuts", "logprobs"])
def test_a_model_that_drafts_for_itself_is_always_right(name: str) -> None:
    """It has read the text as it is, and draws with the request's own numbers."""
    on = Timed(babbles)
    found = on.llm.generate(["The prompt", "another"], params_of(name, n=2))
    assert accepted(found) == drafted(found) > 100
    # A token is computed once, but for the last draft of a step.
    n_computed = sum(n_tokens for n_tokens, _, _ in on.second.steps)
    n_texts = sum(len(each.prompt_token_ids) + len(each.token_ids) for each in found)
    assert n_computed <= n_texts


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ({}, {"n_blocks": 20, "max_batch_tokens": 3}),
        ({"max_batch_tokens": 5}, {"max_seqs": 2, "max_logits": 2}),
        ({"max_logits": 9, "max_seqs": 5}, {"max_seq_len": 40}),
        ({"n_blocks": 34}, {}),
        ({"n_blocks": 33, "max_batch_tokens": 7}, {"n_blocks": 40, "max_batch_tokens": 4}),
    ],
    ids=str,
)
def test_mixed_requests_side_by_side(limits: dict[str, int], sizes: dict[str, int]) -> None:
    """Two completions each, with too little of everything, in either model."""
    params = [params_of(name, i, n=2, max_tokens=40) for i, name in enumerate(PARAMS)]
    prompts = [f"{'abc' * i} prompt {i}" for i in range(len(params))]
    expected = babbling(**limits).generate(prompts, params)
    on = Timed(sizes=sizes, **limits)
    assert plain(on.llm.generate(prompts, params)) == plain(expected)
    assert on.is_empty()
    assert accepted(on.llm.generate(["abcabc"], GREEDY)) > 0
    if "n_blocks" in limits:
        assert on.llm._loop.stepper.scheduler.n_preemptions


def test_streams_that_are_given_up_leave_nothing() -> None:
    expected = babbling().generate("abcabc", GREEDY)
    on, chance = Timed(), random.Random(1)
    for _ in range(12):
        streams = [on.llm.stream("abcabc", GREEDY) for _ in range(3)]
        for stream in streams:
            stream._call.max_unread = chance.choice([1, 2, 128])
            for _ in range(chance.choice([1, 5, 20])):
                next(stream)
        streams[0].close()
        text = [token_id for chunk in streams[1] for token_id in chunk.token_ids]
        assert expected[0].token_ids[-len(text) :] == text
        streams[2].close()
        assert on.is_empty()


def test_a_recurrent_model_takes_drafts() -> None:
    main = RecurrentModel(n_slots=24, n_blocks=256, max_batch_tokens=40, max_logits=40)
    on = Timed(hashed, main=main)
    params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    prompts = [[*range(seed, seed + 9)] for seed in range(2)]
    found = on.llm.generate(prompts, params)
    for each in found:
        text = list(each.prompt_token_ids)
        for token_id in each.token_ids:
            assert token_id == np.argmax(hashed(text))
            text.append(token_id)
    assert accepted(found) == drafted(found) > 20
    assert on.is_empty()


def test_an_interrupted_draft_is_forgotten() -> None:
    expected = babbling().generate("abcabc", GREEDY)
    for n in (1, 2, 5, 9):
        on, left = Timed(), [n]

        def broken(left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        on.second.before_step = broken
        stream = on.llm.stream("abcabc", GREEDY)
        with pytest.raises(KeyboardInterrupt):
            list(stream)
        assert plain(on.llm.generate("abcabc", GREEDY)) == plain(expected)
        assert on.is_empty()


def test_a_draft_model_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    on = Timed()

    def broken() -> None:
        raise KernelError("no such file any more")

    found = on.llm.generate("abcabc", GREEDY)
    assert accepted(found)
    on.second.before_step = broken
    assert plain(on.llm.generate("abcabc", GREEDY)) == plain(found)
    assert "the draft model failed, and is not asked any more: no such file" in caplog.text
    assert not drafted(on.llm.generate("abcabc", GREEDY))


def test_a_nan_of_the_draft_model_ends_its_drafts_alone() -> None:
    def poisoned(history: Sequence[int]) -> np.ndarray:
        return babbles(history) * np.float32(np.nan if len(history) == 20 else 1)

    on = Timed(poisoned)
    expected = babbling().generate("abcabc", GREEDY)
    found = on.llm.generate("abcabc", GREEDY)
    assert plain(found) == plain(expected)
    assert on.second.zeroed
    assert accepted(found) > 20
    assert on.is_empty()


def test_a_token_that_the_draft_model_does_not_have() -> None:
    """Its vocabulary ends before: it neither reads nor writes what is behind."""
    on = Timed(babbles)
    small = DraftModel(on.second, 100)  # a, b, c
    on.llm._loop.stepper._speculator = DraftSpeculator(small, 0.0, FLAT, lambda: on.now_s)
    expected = babbling().generate("abcabc", GREEDY)
    assert any(token_id >= 100 for token_id in expected[0].token_ids)
    assert plain(on.llm.generate("abcabc", GREEDY)) == plain(expected)
    assert on.second.batch.token_ids.max() < 100


def test_closing_an_llm_closes_its_draft_model() -> None:
    on = Timed()
    on.llm.generate("abcabc", GREEDY)
    on.llm.close()
    assert on.model.closed and on.second.closed


# ---- what it costs ---------------------------------------------------------------------------

COSTS = {"costs": STEP_COSTS, "step_s": 1.0, "row_s": 0.18, "draft_s": 0.12, "reading_s": 0.02}
LONG: dict[str, Any] = {"n_blocks": 400, "max_seq_len": 1600}


def seconds(on: Timed, params: SamplingParams, prompts: list[str]) -> float:
    """Those of the answers, without prompts."""
    before = on.now_s
    on.llm.generate(prompts, params)
    return on.now_s - before


@pytest.mark.parametrize("n_batch", [1, 8])
def test_a_model_that_is_always_wrong_costs_little(n_batch: int) -> None:
    params = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
    prompts = [f"{i} prompt" for i in range(n_batch)]
    on = Timed(never, sizes=LONG, **COSTS, **LONG)
    first = seconds(on, params, prompts)
    again = seconds(on, params, prompts)
    off = Timed(never, **COSTS, **LONG)
    off.llm._loop.stepper._speculator = None
    plain_s = seconds(off, params, prompts)
    assert 0.98 * first < plain_s < first
    assert 0.99 * again < plain_s


def test_a_model_that_gives_nothing_but_nan_costs_little() -> None:
    """It is not asked to read the text again at every step."""

    def poisoned(history: Sequence[int]) -> np.ndarray:
        return babbles(history) * np.float32(np.nan if len(history) >= 20 else 1)

    params = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
    on, off = (Timed(poisoned, sizes=LONG, **COSTS, **LONG) for _ in range(2))
    off.llm._loop.stepper._speculator = None
    assert 0.98 * seconds(on, params, ["abc"]) < seconds(off, params, ["abc"])
    assert on.is_empty()


def test_others_do_not_wait_until_a_long_text_is_read() -> None:
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    long = {"n_blocks": 800, "max_seq_len": 3200, "max_batch_tokens": 64}
    on, times = Timed(babbles, sizes=long, **COSTS, **long), list[float]()
    for _ in on.llm.stream("abc" * 900, params):
        times.append(on.now_s)
    gaps = np.diff(times)
    assert gaps.max() < 10 * np.median(gaps[gaps > 0])
    assert on.second.steps, "it was read"


def test_a_model_that_is_right_saves_time() -> None:
    params = SamplingParams(temperature=0, max_tokens=300, ignore_eos=True)
    on, off = (Timed(babbles, sizes=LONG, **COSTS, **LONG) for _ in range(2))
    off.llm._loop.stepper._speculator = None
    assert seconds(off, params, ["abc"]) > 1.6 * seconds(on, params, ["abc"])
    # One whose drafts cost as much as a step is not asked.
    dear = Timed(babbles, sizes=LONG, **{**COSTS, "draft_s": 1.0}, **LONG)
    [found] = dear.llm.generate("abc", params)
    assert found.timings.n_drafted_tokens < 5


def test_steps_that_take_longer_than_the_table_says_are_noticed() -> None:
    """Every draft is right, and none is worth its row."""
    params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    dear = {**COSTS, "row_s": 1.0, "draft_s": 0.01}
    on, off = (Timed(babbles, sizes=LONG, **dear, **LONG) for _ in range(2))
    off.llm._loop.stepper._speculator = None
    found = on.llm.generate(["abc"], params)
    assert 0 < accepted(found) == drafted(found) < 60
    before = on.now_s
    assert drafted(on.llm.generate(["cde"], params)) < 10
    assert 0.98 * (on.now_s - before) < seconds(off, params, ["cde"])


def test_trials_notice_that_a_model_is_right_again() -> None:
    is_right = [False]

    def at_times(history: Sequence[int]) -> np.ndarray:
        return babbles(history) if is_right[0] else never(history)

    params = SamplingParams(temperature=0, max_tokens=1200, ignore_eos=True)
    on = Timed(at_times, sizes=LONG, **COSTS, **LONG)
    assert on.llm.generate("abc", params)[0].timings.n_drafted_tokens < 40
    assert on.speculator.chance < 0.45
    is_right[0] = True
    assert on.llm.generate("cde", params)[0].timings.n_accepted_tokens > 300
    assert on.speculator.chance > 0.8


def test_a_long_text_is_read_only_where_that_pays() -> None:
    """The last four tokens of an answer are not worth reading 80."""
    prompt = "abc" * 27
    few, many = (GREEDY.replace(max_tokens=n) for n in (4, 40))
    costs = {**COSTS, "reading_s": 0.1}
    for params, pays in ((few, False), (many, True)):
        on = Timed(babbles, **costs)
        on.llm.generate("abc", GREEDY)  # its times are known now
        assert bool(drafted(on.llm.generate(prompt, params))) == pays


# ---- where it is on --------------------------------------------------------------------------


def test_the_text_itself_is_asked_first() -> None:
    second = FakeModel(never, **SIZES)
    model = FakeModel(babbles, **SIZES)
    llm = assemble(model, SpecialByteTokenizer(), "fake", "auto", draft=second)
    both = llm._loop.stepper._speculator
    assert isinstance(both, TextThenModel)
    both._text = Speculator(FLAT)
    [found] = llm.generate("abcabc", GREEDY)
    assert plain([found]) == plain(babbling().generate("abcabc", GREEDY))
    assert found.timings.drafts["suffix"].n_accepted > 10
    by_source = found.timings.drafts.values()
    assert sum(each.n_drafted for each in by_source) == found.timings.n_drafted_tokens
    assert sum(each.n_accepted for each in by_source) == found.timings.n_accepted_tokens


@pytest.mark.parametrize(
    ("speculation", "draft", "words"),
    [
        ("draft", None, r"needs a second model, LLM\(..., draft=MODEL\)"),
        ("off", "small.gguf", """needs speculation "auto" or "draft", got 'off'"""),
        ("suffix", "small.gguf", "got 'suffix'; leave one of them out"),
    ],
)
def test_what_does_not_go_together(speculation: str, draft: str | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        LLM("no such file.gguf", speculation=speculation, draft=draft)


def test_a_draft_model_refuses_the_gpu() -> None:
    options = DraftOptions("draft", "small.gguf")
    with pytest.raises(RequestError, match="needs the CPU, but the GPU was asked for; pass device"):
        options.load("no such file.gguf", "cuda", {})


def test_a_follower_keeps_what_was_right() -> None:
    follower = Follower(0.5, new_rows(1)[0])
    follower.follow([1, 2, 3])
    follower.token_ids += [4, 5, 6]
    follower.n_computed = 5
    assert (follower.n_text, follower.draft_tokens) == (3, [4, 5, 6])
    assert follower.follow([1, 2, 3, 4, 9, 8]) == Judged(1, True)
    assert (follower.token_ids, follower.n_computed) == ([1, 2, 3, 4, 9, 8], 4)
    follower.token_ids += [7]
    assert follower.follow([1, 2, 3, 4, 9, 8]) == Judged(0, False)
    assert follower.draft_tokens == []
    # A draft that was right, but not tried: the one behind it is not known.
    follower.token_ids += [5, 6]
    follower.n_computed = 8
    assert follower.follow([1, 2, 3, 4, 9, 8, 5]) == Judged(1, False)
    assert (follower.n_computed, follower.n_unread) == (6, 1)


def test_speculation_without_a_draft_model_asks_none() -> None:
    llm = fake_llm(speculation="auto")
    assert isinstance(llm._loop.stepper._speculator, Speculator)
