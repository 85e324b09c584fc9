"""The sampler at work on one context: who was cut by which number, and the draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyroclast import sampling
from pyroclast.errors import RequestError
from pyroclast.lens.choice import logits_after
from pyroclast.lens.text import Context, prompt_length, some_ids_of, text_of
from pyroclast.lens.words import stage_words
from pyroclast.sampling import stages
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.llm import LLM
    from pyroclast.text.tokenizer import Tokenizer

MAX_REDRAWS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One token in one stage.  p_before is None in the first stage.  cut: this stage removed it."""

    id: int
    text: str
    p_before: float | None
    p_after: float
    cut: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """The distribution after one stage.  words: what the stage does.  n_kept tokens are left,
    n_removed were removed by it; entropy in nats, n_equal_sides = exp(entropy).  top: the tokens
    that `Traced` follows, those cut by an earlier stage left out."""

    name: str
    words: str
    n_kept: int
    n_removed: int
    entropy: float
    n_equal_sides: float
    top: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """The random number `uniform` in [0, 1), None if greedy, which seed, position and completion
    give; the token that it chose, and the range of numbers that choose that token."""

    seed: int
    position: int
    uniform: float | None
    token: int
    text: str
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Traced:
    """Every stage between the logits and the token."""

    stages: tuple[Stage, ...]
    draw: Draw


@dataclass(frozen=True, slots=True)
class Redrawn:
    """token_ids: what completion 0, 1, ... draws.  counts: (token id, its text, how often), the
    most frequent first."""

    token_ids: tuple[int, ...]
    counts: tuple[tuple[int, str, int], ...]
    seed: int
    position: int


def trace(
    llm: LLM,
    context: Context,
    params: SamplingParams | None = None,
    *,
    n_top: int = 20,
    n_prompt: int | None = None,
    adapter: str | None = None,
) -> Traced:
    """Every stage of sampling the next token, as `LLM.generate` would draw it.  It follows the
    n_top most likely tokens, and the chosen one.  n_prompt: how many tokens of the context are the
    prompt, for penalties; None: all."""
    params, ids, n_prompt = _prepared(llm, context, params, n_prompt)
    found = sampling.trace(
        logits_after(llm, ids, adapter),
        params,
        prompt_ids=ids[:n_prompt],
        output_ids=ids[n_prompt:],
        position=len(ids),
        n_tokens=n_top,
    )
    names = [stage.name for stage in found.stages]
    shown = tuple(
        Stage(
            stage.name,
            _words(stage, params, i, len(ids) - n_prompt),
            stage.n_kept,
            stage.n_removed,
            stage.entropy,
            stage.perplexity,
            _rows(llm.tokenizer, found.tokens, names[i - 1] if i else None, stage.name),
        )
        for i, stage in enumerate(found.stages)
    )
    text = text_of(llm.tokenizer, found.token_id)
    draw = Draw(found.seed, found.position, found.u, found.token_id, text, found.cdf)
    return Traced(shown, draw)


def _words(stage: stages.StageTrace, params: SamplingParams, i: int, n_answered: int) -> str:
    rescales = i > 0 and stage.n_removed > 0
    return stage_words(stage.name, params, rescales=rescales, n_answered=n_answered)


def redraw(
    llm: LLM,
    context: Context,
    params: SamplingParams | None = None,
    n: int = 200,
    *,
    n_prompt: int | None = None,
    adapter: str | None = None,
) -> Redrawn:
    """The next token n times: what `LLM.generate` with SamplingParams(n=n) begins with."""
    if not 1 <= n <= MAX_REDRAWS:
        raise RequestError(f"n must be 1 to {MAX_REDRAWS} redraws, got {n}")
    params, ids, n_prompt = _prepared(llm, context, params, n_prompt)
    found = stages.redraws(
        logits_after(llm, ids, adapter),
        params,
        n,
        prompt_ids=ids[:n_prompt],
        output_ids=ids[n_prompt:],
        position=len(ids),
    )
    often = sorted(Counter(found).items(), key=lambda item: (-item[1], item[0]))
    counts = tuple((i, text_of(llm.tokenizer, i), count) for i, count in often)
    return Redrawn(tuple(found), counts, params.fixed_seed(), len(ids))


def _prepared(
    llm: LLM, context: Context, params: SamplingParams | None, n_prompt: int | None
) -> tuple[SamplingParams, list[int], int]:
    """The parameters with a seed, the ids, and how many of them are the prompt's."""
    params = params or SamplingParams()
    if params.structured is not None or params.logits_processors:
        raise RequestError(
            "trace and redraw show the sampler's own stages; leave out structured and "
            "logits_processors"
        )
    ids = some_ids_of(llm, context)
    n_prompt = prompt_length(n_prompt, len(ids))
    return params.replace(seed=params.fixed_seed()), ids, n_prompt


def _rows(
    tokenizer: Tokenizer, tokens: Sequence[stages.TokenTrace], before: str | None, name: str
) -> tuple[Row, ...]:
    return tuple(
        Row(
            token.token_id,
            text_of(tokenizer, token.token_id),
            None if before is None else token.probs[before],
            token.probs[name],
            token.removed_by == name,
        )
        for token in tokens
        if before is None or token.probs[before] > 0.0
    )
