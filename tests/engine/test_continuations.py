"""`score(contexts, continuations)`: only continuations are scored, and a context is read once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import demo
from fake_model import BOS, fake_llm
from pyroclast import LLM, AsyncLLM, RequestError, SamplingParams, Score

CONTEXT = "a context of some length. "
ENDINGS = ["one", "another", "x"]


def same(found: Score, whole: Score, n_context: int) -> bool:
    """Whether a score is that of the whole text, less its context."""
    return (
        found.token_ids == whole.token_ids
        and found.logprobs[:n_context] == [None] * n_context
        and found.logprobs[n_context:] == whole.logprobs[n_context:]
    )


@pytest.mark.parametrize("limits", [{}, {"max_batch_tokens": 3}, {"max_logits": 1}], ids=str)
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_continuations_score_as_in_the_whole_text(limits: Any, prefix_cache: bool) -> None:
    llm = fake_llm(prefix_cache=prefix_cache, **limits)
    found = llm.score(CONTEXT, ENDINGS, n_top=2)
    n_context = len(CONTEXT) + 1  # and the BOS
    for score, ending in zip(found, ENDINGS, strict=True):
        [whole] = llm.score([CONTEXT + ending], n_top=2)
        assert score.token_ids == [BOS, *CONTEXT.encode(), *ending.encode()]
        assert same(score, whole, n_context)
        assert score.logprob == sum(each.logprob for each in whole.logprobs[n_context:] if each)
        assert len([each for each in score.logprobs if each]) == len(ending)
        json.dumps(score.as_dict())


def test_a_context_is_read_once() -> None:
    llm = fake_llm()
    llm.score("c" * 100, ["a", "b", "c", "d"])
    n_read = sum(n_tokens for n_tokens, *_ in llm.model.steps)  # type: ignore[attr-defined]
    assert n_read < 130
    n_rows = sum(n_rows for *_, n_rows in llm.model.steps)  # type: ignore[attr-defined]
    assert n_rows == 4


def test_greedy_continuations_are_told() -> None:
    llm = fake_llm()
    [out] = llm.generate("begin", SamplingParams(temperature=0, max_tokens=3))
    head = [BOS, *b"begin"]
    greedy, other = llm.score(head, [out.token_ids, [1, 2, 3]])
    assert (greedy.is_greedy, other.is_greedy) == (True, False)


def test_ids_and_mappings_and_one_context_for_each() -> None:
    llm = fake_llm()
    [plain] = llm.score("ab", "cd")
    assert llm.score([BOS, *b"ab"], [[*b"cd"]]) == [plain]
    assert llm.score({"prompt": "ab"}, {"prompt": "cd"}) == [plain]
    assert llm.score({"prompt_token_ids": [BOS, *b"ab"]}, {"input_ids": [*b"cd"]}) == [plain]
    first, second = llm.score(["ab", "x"], ["cd", "y"])
    assert (first, second.token_ids) == (plain, [BOS, *b"xy"])


def test_async_scores_are_the_same() -> None:
    async def scores() -> list[Score]:
        async with AsyncLLM.of(fake_llm()) as llm:
            return await llm.score(CONTEXT, ENDINGS)

    assert asyncio.run(scores()) == fake_llm().score(CONTEXT, ENDINGS)


@pytest.mark.parametrize(
    ("contexts", "continuations", "words"),
    [
        (["a", "b"], ["c"], "got 2 contexts for 1 continuations; give one for all"),
        ("a", [[1]], "must both be text, or both token ids"),
        ([1], "a", "must both be text, or both token ids"),
        ("a", "", "the continuation is empty"),
        ("a", ["b", ""], "continuation 1 is empty"),
        ([1], [[]], "the prompt is empty|the continuation is empty"),
        ("", "a", "the context of the continuation is empty"),
        ([1], [[999]], "the continuation holds the token id 999"),
        ("a" * 100, "b" * 100, "the prompt has 201 tokens, but the context holds 128"),
    ],
)
def test_what_cannot_be_scored(contexts: Any, continuations: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        fake_llm().score(contexts, continuations)


@pytest.fixture(scope="module")
def llm() -> Any:
    with LLM(demo.demo_path(), threads=1) as loaded:
        yield loaded


@pytest.mark.parametrize(
    ("context", "continuation", "scored"),
    [
        ("The capital of France is", " Paris", " Paris"),
        ("The capital of France is ", "Paris", " Paris"),  # the space goes with the word
        ("The capital of Fra", "nce", " France"),
        ("Over", "whelming news", "whelming news"),
    ],
)
def test_a_token_that_spans_the_border_is_scored(
    llm: LLM, context: str, continuation: str, scored: str
) -> None:
    [found] = llm.score(context, continuation)
    [whole] = llm.score([context + continuation])
    n_context = len(found.logprobs) - sum(each is not None for each in found.logprobs)
    assert same(found, whole, n_context)
    assert llm.tokenizer.decode(found.token_ids[n_context:]) == scored
