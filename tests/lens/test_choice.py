"""The distribution after a context against LLM.logits and LLM.score."""

from __future__ import annotations

import numpy as np
import pytest

from pyroclast import LLM, lens
from pyroclast.lens.choice import best
from pyroclast_kernels.sample.reference import falling


def test_next_is_the_last_row_of_the_logits(tiny_llm: LLM) -> None:
    ids = [256, 7, 99, 3, 7]
    found = lens.next_token(tiny_llm, ids, n_top=7)
    want = tiny_llm.logits(ids)[-1]
    np.testing.assert_array_equal(found.logits, want)
    x = want.astype(np.float64)
    p = np.exp(x) / np.exp(x).sum()
    assert found.token_ids == tuple(ids)
    assert np.isclose(found.log_z, np.log(np.exp(x).sum()), rtol=1e-12)
    assert np.isclose(found.entropy, -(p * np.log(p)).sum(), rtol=1e-12)
    assert np.isclose(found.n_equal_sides, np.exp(found.entropy), rtol=1e-12)
    order = np.argsort(-want, kind="stable")[:7]
    assert [each.id for each in found.top] == order.tolist()
    np.testing.assert_allclose([each.p for each in found.top], p[order], rtol=1e-12)
    assert [each.logit for each in found.top] == want[order].tolist()


@pytest.mark.parametrize("n", [1, 3, 7, 8, 50])
def test_the_best_are_those_of_a_whole_sort(n: int) -> None:
    """Among equals, at the border too, the lower id comes first."""
    logits = np.array([2, 5, 5, 1, 5, -np.inf, 2, 2], np.float32)
    assert best(logits, n).tolist() == falling(logits)[:n].tolist()


def test_text_gets_the_special_tokens_that_generate_adds(demo_llm: LLM) -> None:
    text = "The capital of France is"
    found = lens.next_token(demo_llm, text)
    [score] = demo_llm.score(text, " Paris")
    [paris] = [each for each in found.top if each.text == " Paris"]
    assert np.isclose(np.log(paris.p), score.logprob, atol=1e-5)
    assert list(found.token_ids) == demo_llm.tokenizer.encode(text)
