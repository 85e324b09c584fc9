"""Drafts to verify: several tokens of one request in a step change no text, no logprob, no bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from fake_model import VOCAB_SIZE, fake_llm, free_blocks, hashed
from pyroclast import LLM, Completion, NumericalError, SamplingParams
from pyroclast.engine.generate_request import GenerateRequest

PROMPTS: list[Any] = ["one", "a longer prompt, read in several chunks", [1, 2, 3], "x"]
N_DRAFTS = 4
Drafts = Callable[[GenerateRequest], list[int]]

# What of a draft of four tokens is right.
RIGHT = {"all": 4, "some": 2, "none": 0}
PARAMS = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8},
    "penalties": {"repetition_penalty": 1.4, "frequency_penalty": 1.5, "presence_penalty": 0.5},
    "early mask": {"min_tokens": 9, "stop_token_ids": tuple(range(120)), "ignore_eos": False},
    "bias": {"logit_bias": {66: 3.0}, "allowed_token_ids": tuple(range(200))},
    "stop string": {"stop": ("a", "b", "c"), "min_tokens": 3},
    "logprobs": {"logprobs": 2, "prompt_logprobs": 1},
}


def params_of(name: str, seed: int = 5) -> SamplingParams:
    return SamplingParams(**{"seed": seed, "max_tokens": 24, "ignore_eos": True, **PARAMS[name]})


def with_drafts(llm: LLM, drafts_of: Drafts) -> LLM:
    """Before every step, each request that is in the generation gets drafts."""
    stepper = llm._loop.stepper
    step = stepper.step

    def draft_and_step() -> None:
        for request in list(stepper.scheduler.running):
            if isinstance(request, GenerateRequest):
                stepper.propose(request, drafts_of(request))
        step()

    stepper.step = draft_and_step  # type: ignore[method-assign]
    return llm


def partly_right(expected: list[Completion], n_right: int) -> Drafts:
    """Drafts whose first `n_right` tokens are those that will be sampled."""
    texts = {(out.prompt_index, out.index): out for out in expected}

    def drafts_of(request: GenerateRequest) -> list[int]:
        coming = texts[request.prompt_index, request.index].token_ids[request.n_generated :]
        drafts = (coming + [0] * N_DRAFTS)[:N_DRAFTS]
        return drafts[:n_right] + [(i + 1) % 256 for i in drafts[n_right:]]

    return drafts_of


def plain(outs: list[Completion]) -> list[dict[str, Any]]:
    """Everything but the times."""
    return [{**out.as_dict(), "timings": None} for out in outs]


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("name", PARAMS)
def test_drafts_change_nothing_but_the_number_of_steps(name: str, right: str) -> None:
    params = params_of(name)
    alone = fake_llm()
    expected = alone.generate("the prompt", params)
    llm = with_drafts(fake_llm(), partly_right(expected, RIGHT[right]))
    assert plain(llm.generate("the prompt", params)) == plain(expected)
    assert free_blocks(llm) == llm.model.n_blocks
    n_steps, n_plain = len(llm.model.steps), len(alone.model.steps)
    assert n_steps == n_plain if right == "none" else n_steps < n_plain


def test_a_step_gives_as_many_tokens_as_the_drafts_are_right_and_one_more() -> None:
    params = SamplingParams(seed=1, max_tokens=11, ignore_eos=True)
    expected = fake_llm().generate([1, 2, 3], params)
    for n_right, n_steps in ((4, 1 + 2), (3, 1 + 3), (1, 1 + 5), (0, 1 + 10)):
        llm = with_drafts(fake_llm(), partly_right(expected, n_right))
        assert plain(llm.generate([1, 2, 3], params)) == plain(expected)
        assert len(llm.model.steps) == n_steps
        # No draft lies behind the last token that is wanted.
        assert llm.model.steps[1] == (5, 1, 5)
        assert llm.model.steps[-1][0] <= 5


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_batch_tokens": 5},
        {"max_batch_tokens": 40, "max_logits": 9},
        {"max_batch_tokens": 40, "max_logits": 40, "max_seqs": 4},
        {"n_blocks": 20, "max_batch_tokens": 40, "max_logits": 40},
        {"n_blocks": 16, "max_batch_tokens": 7},
    ],
    ids=str,
)
def test_neighbours_with_and_without_drafts(limits: dict[str, int], right: str) -> None:
    """Every prompt under other parameters; the last one never has drafts."""
    params = [params_of(name, seed) for seed, name in enumerate(PARAMS)]
    prompts = (PROMPTS * 2)[: len(params)]
    plain_llm = fake_llm(**limits)
    expected = plain_llm.generate(prompts, params)
    drafts_of = partly_right(expected, RIGHT[right])

    def but_not_the_last(request: GenerateRequest) -> list[int]:
        return drafts_of(request) if request.prompt_index < len(params) - 1 else []

    llm = with_drafts(fake_llm(**limits), but_not_the_last)
    assert plain(llm.generate(prompts, params)) == plain(expected)
    assert free_blocks(llm) == llm.model.n_blocks
    n_tokens, _, n_rows = np.array(llm.model.steps).max(0)
    assert n_tokens <= llm.model.max_batch_tokens and n_rows <= llm.model.max_logits
    if limits.get("max_logits") == 40 and right == "all":
        assert len(llm.model.steps) < len(plain_llm.model.steps)


def test_the_completions_of_one_prompt_share_its_blocks_and_draft_apart() -> None:
    params = SamplingParams(n=3, seed=1, max_tokens=20, ignore_eos=True, frequency_penalty=0.5)
    prompt = list(range(21))
    expected = fake_llm(max_batch_tokens=64, max_logits=32).generate(prompt, params)
    for n_right in RIGHT.values():
        llm = fake_llm(max_batch_tokens=64, max_logits=32)
        outs = with_drafts(llm, partly_right(expected, n_right)).generate(prompt, params)
        assert plain(outs) == plain(expected)
        assert free_blocks(llm) == llm.model.n_blocks


def test_drafts_are_dropped_before_anybody_is_preempted() -> None:
    """Two requests that just fit: 2 prompts of 4 and 20 tokens each are 12 blocks of 4."""
    params = SamplingParams(seed=3, max_tokens=20, ignore_eos=True)
    prompts = [[1, 2, 3, 4], [5, 6, 7, 8]]
    limits = {"n_blocks": 12, "max_batch_tokens": 40, "max_logits": 40}
    expected = fake_llm(**limits).generate(prompts, params)
    llm = with_drafts(fake_llm(**limits), partly_right(expected, 1))
    assert plain(llm.generate(prompts, params)) == plain(expected)
    assert llm._loop.stepper.scheduler.n_preemptions == 0
    assert max(n_tokens for n_tokens, _, _ in llm.model.steps) == 2 * 5


def test_a_nan_behind_a_rejected_draft_leaves_no_trace() -> None:
    """The fake model reads token 99 as poison; drafts hold it, the text does not."""

    def poisoned(history: Any) -> np.ndarray:
        return hashed(history) * np.float32(np.nan if 99 in history else 1)

    params = SamplingParams(
        seed=2, max_tokens=20, ignore_eos=True, logit_bias={99: -100.0}, logprobs=1
    )
    expected = fake_llm(poisoned).generate([1, 2, 3], params)
    assert 99 not in expected[0].token_ids
    right = partly_right(expected, 2)
    llm = with_drafts(fake_llm(poisoned), lambda request: [*right(request)[:2], 99, 99, 99, 7])
    assert plain(llm.generate([1, 2, 3], params)) == plain(expected)
    assert llm.model.zeroed
    assert not (llm.model.cache == 99).any()


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8_0"])
def test_a_nan_behind_a_rejected_draft_is_not_read_later(tmp_path: Path, kv_dtype: str) -> None:
    """These formats read a position too many, whose weight is zero."""
    weights = tiny.random_weights(tiny.BASE)
    weights["token_embd"][99] = np.nan
    path = tiny.write_gguf(tmp_path / "nan.gguf", tiny.BASE, weights)
    params = SamplingParams(seed=2, max_tokens=12, ignore_eos=True, logit_bias={99: -100.0})
    with LLM(path, threads=1, kv_dtype=kv_dtype) as llm:
        expected = llm.generate([1, 2, 3], params)
        with_drafts(llm, lambda request: [99] * 5 if request.n_generated == 2 else [])
        assert plain(llm.generate([1, 2, 3], params)) == plain(expected)


def test_a_nan_in_the_text_ends_it_where_it_would_without_drafts() -> None:
    def poisoned(history: Any) -> np.ndarray:
        return hashed(history) * np.float32(np.nan if len(history) > 9 else 1)

    params = SamplingParams(seed=2, max_tokens=20, ignore_eos=True)
    [healthy] = fake_llm().generate([1, 2, 3], params)
    for n_right in RIGHT.values():
        llm = with_drafts(fake_llm(poisoned), partly_right([healthy], n_right))
        stream, got = llm.stream([1, 2, 3], params), []
        for _ in range(7):
            got += next(stream).token_ids
        assert got == healthy.token_ids[:7]
        with pytest.raises(NumericalError):
            next(stream)
        assert free_blocks(llm) == llm.model.n_blocks
        assert llm.model.zeroed


def test_a_user_s_callable_sees_no_draft() -> None:
    seen = []

    def note(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        seen.append(token_ids)
        return logits

    params = SamplingParams(seed=4, max_tokens=8, ignore_eos=True, logits_processors=[note])
    [expected] = fake_llm().generate([1, 2], params)
    seen.clear()
    llm = with_drafts(fake_llm(), partly_right([expected], 4))
    assert plain(llm.generate([1, 2], params)) == plain([expected])
    text = [1, 2, *expected.token_ids]
    assert seen == [text[:n] for n in range(2, 10)]


def test_drafts_of_one_step_are_not_tried_in_the_next() -> None:
    llm = fake_llm()
    params = SamplingParams(seed=1, max_tokens=9, ignore_eos=True)
    [expected] = fake_llm().generate([1, 2, 3], params)
    stream = llm.stream([1, 2, 3], params)
    got = next(stream).token_ids
    [request] = stream._requests
    llm._loop.stepper.propose(request, [0, 0])
    got += [token_id for chunk in stream for token_id in chunk.token_ids]
    assert got == expected.token_ids
    assert [n for n, _, _ in llm.model.steps] == [3, 3] + [1] * 7


# ---- bits ------------------------------------------------------------------------------------


def recorded(llm: LLM) -> dict[int, np.ndarray]:
    """The logits of each position of a text that `llm` generates alone: those of the last step that
    computed it."""
    found: dict[int, np.ndarray] = {}
    model = llm.model
    forward = model.forward

    def noted(sample: bool = False) -> None:
        forward(sample)
        batch = model.batch
        for row, t in enumerate(batch.logit_rows[: batch.n_logits]):
            found[int(batch.positions[t])] = model.logits[row].copy()

    model.forward = noted  # type: ignore[method-assign]
    return found


@pytest.mark.parametrize("right", RIGHT)
def test_logits_are_the_bits_of_decoding_one_by_one_on_the_fake_model(right: str) -> None:
    params = SamplingParams(seed=6, max_tokens=30, ignore_eos=True)
    alone, llm = fake_llm(), fake_llm()
    want, got = recorded(alone), recorded(llm)
    expected = alone.generate([1, 2, 3], params)
    with_drafts(llm, partly_right(expected, RIGHT[right])).generate([1, 2, 3], params)
    assert sorted(want) == list(range(2, 32))
    for position, logits in want.items():
        np.testing.assert_array_equal(got[position], logits)
        assert logits.shape == (VOCAB_SIZE,)


@pytest.fixture(scope="module", params=["llama", "mistral"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny.CONFIGS[request.param]
    path = tmp_path_factory.mktemp(request.param) / "tiny.gguf"
    return tiny.write_gguf(path, config, tiny.random_weights(config), "Q8_0")


@pytest.mark.parametrize("right", RIGHT)
@pytest.mark.parametrize("threads", [1, 2])
def test_logits_are_the_bits_of_decoding_one_by_one(
    checkpoint: Path, right: str, threads: int
) -> None:
    """Over a block's end (32 positions) and, in mistral, a window of 24."""
    params = SamplingParams(temperature=0.9, seed=11, max_tokens=40, ignore_eos=True, logprobs=2)
    prompt = [1, 7, 200, 33, 5, 61, 140, 2, 90, 17]
    with LLM(checkpoint, threads=threads) as alone, LLM(checkpoint, threads=threads) as llm:
        want, got = recorded(alone), recorded(llm)
        expected = alone.generate(prompt, params)
        with_drafts(llm, partly_right(expected, RIGHT[right]))
        assert plain(llm.generate(prompt, params)) == plain(expected)
        assert sorted(want) == list(range(9, 49))
        for position, logits in want.items():
            np.testing.assert_array_equal(got[position], logits)


def test_a_batch_with_drafts_writes_the_text_of_each_alone(checkpoint: Path) -> None:
    names = ["greedy", "penalties", "early mask", "logprobs"]
    params = [params_of(name, seed) for seed, name in enumerate(names)]
    prompts = [[1, 7, 200, 33][:n] * 9 for n in (1, 4, 3, 2)]
    with LLM(checkpoint, threads=1) as llm:
        expected = [
            llm.generate(prompt, each)[0] for prompt, each in zip(prompts, params, strict=True)
        ]
        for i, out in enumerate(expected):
            out.prompt_index = i
        with_drafts(llm, partly_right(expected, 2))
        assert plain(llm.generate(prompts, params)) == plain(expected)
