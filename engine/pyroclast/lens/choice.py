"""P(next | context): the whole distribution after a context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.lens.text import Context, some_ids_of, text_of
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels.sample.reference import falling, log_softmax

if TYPE_CHECKING:
    from pyroclast.llm import LLM
    from pyroclast.text.tokenizer import Tokenizer

Floats = NDArray[np.float32]
N_TOP = 50


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that may come next: its probability p and its logit."""

    id: int
    text: str
    p: float
    logit: float


@dataclass(frozen=True, slots=True)
class Next:
    """What follows token_ids.  logits float32 (vocab_size,).  log_z: the logarithm of the sum of
    exp(logit), so that p = exp(logit - log_z).  entropy in nats; n_equal_sides = exp(entropy): a
    fair die with that many sides is as uncertain.  top: the most likely tokens, best first."""

    token_ids: tuple[int, ...]
    logits: Floats
    log_z: float
    entropy: float
    n_equal_sides: float
    top: tuple[Candidate, ...]


def next_token(
    llm: LLM, context: Context, *, n_top: int = N_TOP, adapter: str | None = None
) -> Next:
    """The model's own distribution after a context, before temperature and all other stages."""
    ids = some_ids_of(llm, context)
    logits = logits_after(llm, ids, adapter)
    log_p = log_softmax(logits)
    entropy = entropy_of(log_p)
    return Next(
        token_ids=tuple(ids),
        logits=logits,
        log_z=float(logits.max()) - float(log_p.max()),
        entropy=entropy,
        n_equal_sides=float(np.exp(entropy)),
        top=candidates(llm.tokenizer, logits, n_top, log_p),
    )


def logits_after(llm: LLM, token_ids: Sequence[int], adapter: str | None = None) -> Floats:
    """float32 (vocab_size,): what follows the last of token_ids, as the engine samples it.  The
    prefix cache serves what it holds of the context."""
    kept: list[Floats] = []

    def keep(_: Any, logits: Floats) -> Floats:
        kept.append(logits)
        return logits

    params = SamplingParams(max_tokens=1, temperature=0.0, logits_processors=(keep,))
    llm.generate(list(token_ids), params, adapter=adapter)
    return kept[0]


def candidates(
    tokenizer: Tokenizer, logits: Floats, n: int, log_p: NDArray[np.float64]
) -> tuple[Candidate, ...]:
    """The n most likely tokens, best first, the lower id among equals.  log_p: the log-softmax of
    the logits."""
    return tuple(
        Candidate(i, text_of(tokenizer, i), float(np.exp(log_p[i])), float(logits[i]))
        for i in best(logits, n).tolist()
    )


def best(logits: Floats, n: int) -> NDArray[np.int64]:
    """The first n of `falling(logits)`, without sorting the whole vocabulary, which takes
    milliseconds for each token of a stream."""
    if n >= len(logits):
        return np.asarray(falling(logits))
    least = np.partition(logits, -n)[-n]
    ids = np.flatnonzero(logits >= least)
    return ids[falling(logits[ids])][:n]


def entropy_of(log_p: NDArray[np.float64]) -> float:
    """In nats; tokens of probability 0 add nothing."""
    some = log_p[np.isfinite(log_p)]
    return float(-np.sum(np.exp(some) * some)) + 0.0
