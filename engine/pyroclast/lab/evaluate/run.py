"""What a model makes of a task: a result for each item, and figures over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from pyroclast.engine.output import Score
from pyroclast.errors import ContextOverflowError, PyroclastError
from pyroclast.lab.batch.requests import BatchRequest
from pyroclast.lab.batch.run import run_batch
from pyroclast.lab.evaluate.matching import compiled, is_found
from pyroclast.lab.evaluate.tasks import Item
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams

T = TypeVar("T")

_ITEMS_AT_ONCE = 64  # of one call: enough to fill steps, and few enough for the bar to move


@dataclass(slots=True)
class Result:
    """What the model made of one item; what does not apply is None.

    n_scored: the item's tokens that count in `logprob`, natural logarithms summed."""

    id: str
    kind: str
    correct: bool | None = None
    correct_normalized: bool | None = None  # choices: by logprob per byte of the choice
    choice: int | None = None
    logprobs: list[float] = field(default_factory=list)  # of each choice
    text: str | None = None  # generated
    error: str | None = None  # it could not be run, and counts as wrong
    logprob: float | None = None
    n_scored: int | None = None
    n_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None and v != []}


def evaluate(
    llm: LLM,
    items: Sequence[Item],
    params: SamplingParams,
    on_done: Callable[[int], None],
    *,
    adapter: str | None = None,
) -> list[Result]:
    """A result for each item, in their order.  params: how texts are generated.  on_done is told
    how many items are done.  adapter: its name, for all of them."""
    patterns = compiled({item.pattern for item in items if item.pattern})
    found: dict[str, Result] = {}
    for some in _portions([item for item in items if item.kind == "choices"]):
        found |= {result.id: result for result in _choose(llm, some, adapter)}
        on_done(len(found))
    for some in _portions([item for item in items if item.kind == "text"]):
        found |= {result.id: result for result in _read(llm, some, adapter)}
        on_done(len(found))
    asked = {item.id: item for item in items if item.kind in ("match", "regex")}

    def judge(lines: list[dict[str, Any]]) -> None:
        result = _judged(asked[lines[0]["id"]], lines[0], patterns)
        found[result.id] = result

    if asked:
        n_before = len(found)
        requests = [
            BatchRequest(item.id, 0, params, item.prompt, item.messages) for item in asked.values()
        ]
        run_batch(llm, requests, judge, lambda n_done: on_done(n_before + n_done), adapter=adapter)
    return [found[item.id] for item in items]


def _choose(llm: LLM, items: Sequence[Item], adapter: str | None) -> Iterator[Result]:
    """The likeliest choice of each item: the first of those that are equally likely."""
    pairs = [(item.context, choice) for item in items for choice in item.choices]
    contexts, choices = [c for c, _ in pairs], [t for _, t in pairs]
    try:
        scores = iter(llm.score(contexts, choices, adapter=adapter, progress=False))
    except ContextOverflowError as error:
        if len(items) == 1:
            yield Result(
                items[0].id,
                items[0].kind,
                correct=False,
                correct_normalized=False,
                error=str(error),
            )
        else:  # one is too long; it says nothing about the others
            for item in items:
                yield from _choose(llm, [item], adapter)
        return
    for item in items:
        logprobs = [next(scores).logprob for _ in item.choices]
        per_byte = [p / len(t.encode()) for p, t in zip(logprobs, item.choices, strict=True)]
        choice = logprobs.index(max(logprobs))
        yield Result(
            item.id,
            item.kind,
            correct=choice == item.answers[0],
            correct_normalized=per_byte.index(max(per_byte)) == item.answers[0],
            choice=choice,
            logprobs=logprobs,
        )


def _read(llm: LLM, items: Sequence[Item], adapter: str | None) -> Iterator[Result]:
    for item in items:
        logprob, n_scored = surprise(llm, item.text, adapter)
        n_bytes = len(item.text.encode())
        yield Result(item.id, item.kind, logprob=logprob, n_scored=n_scored, n_bytes=n_bytes)


def surprise(llm: LLM, text: str, adapter: str | None = None) -> tuple[float, int]:
    """(the sum of the logprobs of a text's tokens, how many they are): all but the first.

    A text longer than the context is read in windows that overlap by half; every token is scored
    once, after at least half a context, except in the first window."""
    ids = llm.tokenizer.encode(text)
    size = llm.max_seq_len
    scores = llm.score([ids[:size]], adapter=adapter, progress=False)
    step = max(1, size // 2)
    windows = [
        (ids[begin - (size - step) : begin], ids[begin : begin + step])
        for begin in range(size, len(ids), step)
    ]
    for some in _portions(windows):
        contexts, texts = [c for c, _ in some], [t for _, t in some]
        scores += llm.score(contexts, texts, adapter=adapter, progress=False)
    return math.fsum(score.logprob for score in scores), sum(map(_n_scored, scores))


def _n_scored(score: Score) -> int:
    return sum(each is not None for each in score.logprobs)


def _judged(item: Item, line: dict[str, Any], patterns: dict[str, Any]) -> Result:
    if "error" in line:
        return Result(item.id, item.kind, correct=False, error=line["error"])
    text = str(line["text"])
    if item.kind == "match":
        correct = text.strip() in {str(answer).strip() for answer in item.answers}
    else:
        try:
            correct = is_found(patterns[item.pattern], text)
        except PyroclastError as error:
            return Result(item.id, item.kind, correct=False, text=text, error=str(error))
    return Result(item.id, item.kind, correct=correct, text=text)


def figures(results: Iterable[Result]) -> dict[str, Any]:
    """Over all items: accuracy with its standard error where something is right or wrong,
    perplexity and bits per byte of texts."""
    found: dict[str, Any] = {}
    results = list(results)
    for name, kinds in (
        ("accuracy", ("choices",)),
        ("exact_match", ("match",)),
        ("regex_match", ("regex",)),
    ):
        judged = [r.correct for r in results if r.kind in kinds]
        if judged:
            found[name] = _share(judged)
    normalized = [r.correct_normalized for r in results if r.kind == "choices"]
    if normalized:
        found["accuracy_normalized"] = _share(normalized)
    texts = [r for r in results if r.kind == "text"]
    logprob, n_scored = (
        math.fsum(r.logprob or 0 for r in texts),
        sum(r.n_scored or 0 for r in texts),
    )
    if n_scored:
        logprob = math.fsum(r.logprob or 0 for r in texts)
        n_bytes = sum(r.n_bytes or 0 for r in texts)
        found["perplexity"] = {"value": math.exp(-logprob / n_scored), "n_tokens": n_scored}
        found["bits_per_byte"] = {"value": -logprob / math.log(2) / n_bytes, "n_bytes": n_bytes}
    return found


def _share(judged: Sequence[bool | None]) -> dict[str, Any]:
    """The share that is right, and its standard error, as of independent draws."""
    n = len(judged)
    share = sum(map(bool, judged)) / n
    return {"value": share, "stderr": math.sqrt(share * (1 - share) / n), "n": n}


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        yield items[start : start + _ITEMS_AT_ONCE]
