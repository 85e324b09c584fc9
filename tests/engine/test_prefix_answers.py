"""The prefix cache through `LLM`: what callers see of it."""

import numpy as np
import pytest

from fake_model import ByteTokenizer, FakeModel
from pyroclast import SamplingParams
from pyroclast.errors import SamplingError
from pyroclast.llm import assemble


def fake(**options):
    return assemble(FakeModel(max_seqs=4), ByteTokenizer(), "fake", **options)


def test_timings_and_chunks_tell_what_was_cached():
    llm = fake()
    greedy = SamplingParams(temperature=0, max_tokens=6)
    [cold] = llm.generate("the same prompt again", greedy)
    [warm] = llm.generate("the same prompt again", greedy)
    assert (cold.timings.n_cached_tokens, warm.timings.n_cached_tokens) == (0, 21)
    assert (warm.text, warm.token_ids) == (cold.text, cold.token_ids)
    assert next(c.n_cached_tokens for c in llm.stream("the same prompt again", greedy)) == 21


def test_off_shares_only_among_the_completions_of_one_call():
    llm = fake(prefix_cache=False)
    several = SamplingParams(n=3, max_tokens=4, seed=1)
    first = llm.generate("the same prompt again", several)
    assert [c.timings.n_cached_tokens for c in first] == [0, 20, 20]
    second = llm.generate("the same prompt again", several)
    assert [c.timings.n_cached_tokens for c in second] == [0, 20, 20]
    assert [c.text for c in second] == [c.text for c in first]


def test_a_salt_shares_with_the_same_salt_only():
    llm = fake()
    found = [
        llm.generate("the same prompt again", SamplingParams(max_tokens=2, cache_salt=salt))[0]
        for salt in (None, "a", "b", "a", None)
    ]
    assert [c.timings.n_cached_tokens for c in found] == [0, 0, 0, 21, 21]
    for wrong in ("", "\ud800", 5):
        with pytest.raises(SamplingError, match="cache_salt must be None or a text"):
            SamplingParams(cache_salt=wrong)


def test_a_score_reports_every_row_of_a_cached_prompt():
    llm = fake()
    [cold] = llm.score("the same prompt again")
    llm.generate("the same prompt again", SamplingParams(max_tokens=4))
    [warm] = llm.score("the same prompt again")
    assert warm == cold
    [answer] = llm.generate(
        "the same prompt again", SamplingParams(max_tokens=1, prompt_logprobs=0)
    )
    assert answer.prompt_logprobs == cold.logprobs


def test_what_made_a_nan_is_not_answered_from():
    model = FakeModel(max_seqs=4)
    llm = assemble(model, ByteTokenizer(), "fake")
    sound = model.logits_of
    model.logits_of = lambda history: np.full(260, np.nan, np.float32)
    with pytest.raises(Exception, match="NaN"):
        llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    model.logits_of = sound
    [answer] = llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    assert answer.timings.n_cached_tokens == 0


def test_a_failure_of_the_callers_own_leaves_the_cache_as_it_is():
    def fails(token_ids, logits):
        raise ValueError("mine")

    llm = fake()
    llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    with pytest.raises(Exception, match="mine"):
        llm.generate(
            "the same prompt again", SamplingParams(max_tokens=2, logits_processors=[fails])
        )
    [answer] = llm.generate("the same prompt again", SamplingParams(max_tokens=2))
    assert answer.timings.n_cached_tokens == 21
