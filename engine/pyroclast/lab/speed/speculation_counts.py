"""What is counted of answers with drafts, and not timed: it is the same in each run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pyroclast import LLM, Completion

_MIN_COPY = 4  # tokens in a row


class StepCount:
    """n: the steps so far."""

    n = 0


@contextmanager
def counting_steps(llm: LLM) -> Iterator[StepCount]:
    """Counts the steps of `llm` that only decode: they have a row of logits for each token."""
    count, model = StepCount(), llm.model
    forward: Any = model.forward

    def counted(sample: bool = False) -> None:
        count.n += bool(model.batch.n_tokens == model.batch.n_logits)
        forward(sample)

    model.forward = counted  # type: ignore[method-assign]
    try:
        yield count
    finally:
        model.forward = forward  # type: ignore[method-assign]


def copied_share(found: Iterable[Completion]) -> float:
    """The share of the answers' tokens that are copied from their prompts."""
    n_copied = n_tokens = 0
    for each in found:
        n_copied += n_copied_tokens(each.prompt_token_ids, each.token_ids)
        n_tokens += len(each.token_ids)
    return n_copied / n_tokens


def n_copied_tokens(prompt: Sequence[int], answer: Sequence[int]) -> int:
    """How many tokens of `answer` are in a run of at least 4 that `prompt` holds as well."""
    grams = set(_grams(prompt))
    copied: set[int] = set()
    for i, gram in enumerate(_grams(answer)):
        if gram in grams:
            copied.update(range(i, i + _MIN_COPY))
    return len(copied)


def _grams(token_ids: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for i in range(len(token_ids) - _MIN_COPY + 1):
        yield tuple(token_ids[i : i + _MIN_COPY])
