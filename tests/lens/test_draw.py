"""Stages, draws and steps against the sampler's definition and the engine's own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pyroclast import LLM, RequestError, SamplingParams, lens, sampling

IDS = [256, 7, 99, 3, 7]
PARAMS: dict[str, Any] = {
    "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.001, "typical_p": 0.98,
    "top_n_sigma": 3.0, "repetition_penalty": 1.2, "presence_penalty": 0.3, "seed": 11,
    "logit_bias": {5: 1.5}, "allowed_token_ids": tuple(range(200)),
}  # fmt: skip


def test_trace_is_the_sampler_s_and_chooses_the_engine_s_token(tiny_llm: LLM) -> None:
    params = SamplingParams(**PARAMS)
    found = lens.trace(tiny_llm, IDS, params, n_top=6, n_prompt=3)
    want = sampling.trace(
        tiny_llm.logits(IDS)[-1],
        params,
        prompt_ids=IDS[:3],
        output_ids=IDS[3:],
        position=len(IDS),
        n_tokens=6,
    )
    assert [each.name for each in found.stages] == [each.name for each in want.stages]
    assert len(found.stages) == 10
    for i, (ours, theirs) in enumerate(zip(found.stages, want.stages, strict=True)):
        assert (ours.n_kept, ours.n_removed) == (theirs.n_kept, theirs.n_removed)
        assert (ours.entropy, ours.n_equal_sides) == (theirs.entropy, theirs.perplexity)
        for row in ours.top:
            [token] = [each for each in want.tokens if each.token_id == row.id]
            assert row.p_after == token.probs[ours.name]
            assert row.cut == (token.removed_by == ours.name)
            before = None if i == 0 else token.probs[want.stages[i - 1].name]
            assert row.p_before == before
    draw = found.draw
    assert (draw.token, draw.uniform, draw.interval) == (want.token_id, want.u, want.cdf)
    assert (draw.seed, draw.position) == (11, len(IDS))
    assert "2 tokens so far" in next(s.words for s in found.stages if s.name == "penalties")
    assert "divided by 0.8" in next(s.words for s in found.stages if s.name == "temperature")
    whole = lens.trace(tiny_llm, IDS, params)
    [completion] = tiny_llm.generate(IDS, params.replace(max_tokens=1))
    assert completion.token_ids == [whole.draw.token]
    assert len(whole.stages[0].top) in (20, 21)  # the chosen one is always there
    assert draw.token in [row.id for row in found.stages[-1].top]


def test_greedy_needs_no_number(tiny_llm: LLM) -> None:
    found = lens.trace(tiny_llm, IDS, SamplingParams(temperature=0))
    assert found.draw.uniform is None and found.stages[-1].name == "greedy"
    assert found.draw.token == int(tiny_llm.logits(IDS)[-1].argmax())


def test_redraws_are_the_completions_of_one_request(tiny_llm: LLM) -> None:
    params = SamplingParams(temperature=1.3, top_k=5, seed=3)
    found = lens.redraw(tiny_llm, IDS, params, 40)
    answers = tiny_llm.generate(IDS, params.replace(n=40, max_tokens=1))
    assert list(found.token_ids) == [answer.token_ids[0] for answer in answers]
    assert sum(n for _, _, n in found.counts) == 40 and 2 <= len(found.counts) <= 5
    ns = [n for _, _, n in found.counts]
    assert ns == sorted(ns, reverse=True)
    assert found.counts[0][2] == found.token_ids.count(found.counts[0][0])
    assert (found.seed, found.position) == (3, len(IDS))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "1 to 1000"),
        ({"n": 1001}, "1 to 1000"),
        ({"n_prompt": 6}, "0 to 5"),
        ({"params": SamplingParams(structured={"regex": "a"})}, "leave out structured"),
    ],
)
def test_bad_requests(tiny_llm: LLM, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        lens.redraw(tiny_llm, IDS, **options)


def test_generate_tells_what_the_model_said_of_each_token(tiny_llm: LLM) -> None:
    params = SamplingParams(temperature=1.5, seed=5, ignore_eos=True)
    found = list(lens.generate(tiny_llm, IDS, params, max_tokens=12))
    [want] = tiny_llm.generate(IDS, params.replace(max_tokens=12, logprobs=10))
    assert [step.id for step in found] == want.token_ids
    assert want.logprobs is not None
    for step, theirs in zip(found, want.logprobs, strict=True):
        assert np.isclose(np.log(step.p), theirs.logprob, atol=1e-5)
        assert step.rank == theirs.rank
        assert [each.id for each in step.top] == [token_id for token_id, _ in theirs.top]
    logits = tiny_llm.logits(IDS + want.token_ids[:4])[-1].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum()
    assert np.isclose(found[4].entropy, -(p * np.log(p)).sum(), rtol=1e-9)
    forked = list(lens.generate(tiny_llm, IDS + want.token_ids[:5], params, max_tokens=7))
    assert [step.id for step in forked] == want.token_ids[5:]  # the same numbers by position


PENALTIES: dict[str, Any] = {
    "temperature": 0.9, "top_p": 0.95, "seed": 5, "ignore_eos": True,
    "presence_penalty": 1.1, "frequency_penalty": 0.7, "repetition_penalty": 1.2,
}  # fmt: skip


@pytest.mark.parametrize("cuts", [range(1, 24), (5, 6, 17)])
def test_penalties_see_the_answer_so_far(tiny_llm: LLM, cuts: Sequence[int]) -> None:
    """Step by step or in any pieces: the tokens of one request."""
    params = SamplingParams(**PENALTIES)
    [whole] = tiny_llm.generate(IDS, params.replace(max_tokens=24))
    found: list[int] = []
    for end in (*cuts, 24):
        steps = lens.generate(
            tiny_llm, IDS + found, params, max_tokens=end - len(found), n_prompt=len(IDS)
        )
        found += [step.id for step in steps]
    assert found == whole.token_ids
    fresh = lens.generate(tiny_llm, IDS + found[:12], params, max_tokens=12)
    assert [step.id for step in fresh] != whole.token_ids[12:]  # an answer of its own


def test_an_answer_that_goes_on_is_drafted_and_batched_alike(tiny_llm: LLM) -> None:
    """Speculation has its own counts: the same tokens with it, beside another request."""
    params = SamplingParams(**PENALTIES | {"presence_penalty": -2.0, "frequency_penalty": -1.0})
    [whole] = tiny_llm.generate(IDS, params.replace(max_tokens=40))
    begun = IDS + whole.token_ids[:20]
    with (
        tiny_llm.stream(begun, params.replace(max_tokens=20), n_answered=20) as stream,
        tiny_llm.stream(IDS[:3], params.replace(max_tokens=40)) as other,
    ):
        next(other)
        assert [i for chunk in stream for i in chunk.token_ids] == whole.token_ids[20:]
    for wrong in (-1, 26, 1.5, True):
        with pytest.raises(RequestError, match="n_answered must be"):
            tiny_llm.stream(begun, n_answered=wrong)  # type: ignore[arg-type]


def test_generate_ends_with_the_context(tiny_llm: LLM) -> None:
    ids = [7] * (tiny_llm.max_seq_len - 2)
    params = SamplingParams(ignore_eos=True, min_tokens=5)
    assert len(list(lens.generate(tiny_llm, ids, params, max_tokens=9))) == 2


def test_tokens_that_a_grammar_forces_have_a_probability_too(demo_llm: LLM) -> None:
    params = SamplingParams(structured={"choice": ["a long forced answer"]})
    found = list(lens.generate(demo_llm, "Say: ", params, max_tokens=12))
    eos = demo_llm.tokenizer.eos_token_ids
    assert "".join(s.text for s in found if s.id not in eos) == "a long forced answer"
    assert found[0].rank > 1 and 0 < found[0].p < 1
