"""The loop, token by token: what was chosen, how likely it was, and what else might have come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyroclast.lens.choice import Candidate, Floats, candidates, entropy_of
from pyroclast.lens.text import Context, prompt_length, some_ids_of, text_of
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels.sample.reference import log_softmax

if TYPE_CHECKING:
    from pyroclast.engine.output import Chunk
    from pyroclast.llm import LLM
    from pyroclast.text.tokenizer import Tokenizer

MAX_TOKENS = 512
_N_TOP = 10


@dataclass(frozen=True, slots=True)
class Step:
    """One token of the answer.  p, rank (1: the most likely), entropy (nats) and top are of the
    model's own distribution, before temperature, grammar and cuts.  n_cached: tokens of the prompt
    that were not computed."""

    id: int
    text: str
    p: float
    rank: int
    entropy: float
    top: tuple[Candidate, ...]
    n_cached: int


class Watcher:
    """A logits processor that changes nothing and remembers what the model said of each token, also
    of those that a grammar forces.  Use one for each answer."""

    def __init__(self, tokenizer: Tokenizer, n_prompt: int) -> None:
        self._tokenizer, self._n_tokens = tokenizer, n_prompt
        self._seen: dict[int, Floats] = {}  # number of tokens before -> logits

    def __call__(self, token_ids: Sequence[int], logits: Floats) -> Floats:
        """Keeps the row; it is a copy."""
        self._seen[len(token_ids)] = logits
        return logits

    def steps(self, chunk: Chunk) -> Iterator[Step]:
        """A step for each token of the chunk, which follow those of the chunks before."""
        for token_id in chunk.token_ids:
            logits = self._seen.pop(self._n_tokens)
            self._n_tokens += 1
            yield self._step(token_id, logits, chunk.n_cached_tokens)

    def _step(self, token_id: int, logits: Floats, n_cached: int) -> Step:
        log_p = log_softmax(logits)
        return Step(
            id=token_id,
            text=text_of(self._tokenizer, token_id),
            p=float(np.exp(log_p[token_id])),
            rank=1 + int(np.count_nonzero(logits > logits[token_id])),
            entropy=entropy_of(log_p),
            top=candidates(self._tokenizer, logits, _N_TOP, log_p),
            n_cached=n_cached,
        )


def watched(
    params: SamplingParams, n_prompt: int, max_seq_len: int, max_tokens: int
) -> SamplingParams:
    """One completion of at most max_tokens tokens, and no more than the context has room for."""
    room = max(1, min(max_tokens, max_seq_len - n_prompt))
    return params.replace(
        n=1,
        max_tokens=room,
        min_tokens=min(params.min_tokens, room),
        logprobs=None,
        prompt_logprobs=None,
        seed=params.fixed_seed(),
    )


def generate(
    llm: LLM,
    context: Context,
    params: SamplingParams | None = None,
    *,
    max_tokens: int = 128,
    n_prompt: int | None = None,
    adapter: str | None = None,
) -> Iterator[Step]:
    """The answer, a step at a time.  To fork it, pass the ids up to any token and another one.
    n_prompt: how many tokens of the context are the prompt; penalties count those behind it as the
    answer's.  None: all."""
    ids = some_ids_of(llm, context)
    n_prompt = prompt_length(n_prompt, len(ids))
    watcher = Watcher(llm.tokenizer, len(ids))
    given = watched(params or SamplingParams(), len(ids), llm.max_seq_len, max_tokens)
    processors = (*given.logits_processors, watcher)
    watching = given.replace(logits_processors=processors)
    n_answered = len(ids) - n_prompt
    with llm.stream(ids, watching, adapter=adapter, n_answered=n_answered) as stream:
        for chunk in stream:
            yield from watcher.steps(chunk)
