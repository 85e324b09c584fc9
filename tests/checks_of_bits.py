"""That a token's bits depend on nothing but its context, for the tests of families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyroclast import LLM, SamplingParams
from stepping import load, logits_of, step


def check_bits_of_a_context(path: str | Path, token_ids: list[int], **options: Any) -> None:
    """Logits of at least 100 tokens: whole, in chunks, beside other texts, and on one thread."""
    model = load(path, **options)
    whole = logits_of(model, token_ids)
    for size in (1, 7, 33):
        chunks = [
            step(model, [(1, first, token_ids[first : first + size])])[0]
            for first in range(0, len(token_ids), size)
        ]
        np.testing.assert_array_equal(np.concatenate(chunks), whole, err_msg=f"chunks of {size}")
    beside = step(model, [(2, 0, token_ids[:50]), (3, 0, token_ids[5:60]), (4, 0, token_ids[:1])])
    np.testing.assert_array_equal(beside[0], whole[:50])
    np.testing.assert_array_equal(beside[2], whole[:1])
    one = load(path, **options | {"threads": 1})
    np.testing.assert_array_equal(logits_of(one, token_ids), whole)


def check_pages_change_no_text(path: str | Path, token_ids: list[int]) -> None:
    """A text of at least 100 tokens: computed, read from the prefix cache, and beside another."""
    greedy = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    with LLM(path) as llm:
        first, again = (llm.generate([token_ids], greedy)[0] for _ in range(2))
        [beside, _] = llm.generate([token_ids, token_ids[40:90]], greedy)
    assert first.timings.n_cached_tokens == 0
    assert again.timings.n_cached_tokens > 0
    assert first.token_ids == again.token_ids == beside.token_ids
