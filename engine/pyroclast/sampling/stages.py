"""Every stage between logits and token as plain data: what the command `next` prints.

The NumPy reference computes it, so it shows the definition itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.errors import SamplingError
from pyroclast.sampling.params import SamplingParams
from pyroclast_kernels import sample
from pyroclast_kernels.sample import reference


@dataclass(frozen=True, slots=True)
class StageTrace:
    """The distribution after one stage; perplexity = exp(entropy)."""

    name: str
    n_kept: int
    entropy: float  # in nats
    perplexity: float
    n_removed: int  # tokens that this stage removed


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """One token's probability after each stage."""

    token_id: int
    logit: float
    probs: dict[str, float]  # its probability after each stage, in order
    removed_by: str | None  # the stage that removed it


@dataclass(frozen=True, slots=True)
class Trace:
    """`tokens` are the most likely ones before any stage, best first, and the chosen one."""

    token_id: int
    u: float | None  # the random number, in [0, 1); None if greedy
    seed: int
    position: int
    cdf: tuple[float, float]  # the range of u that chooses this token
    stages: list[StageTrace]
    tokens: list[TokenTrace]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def trace(
    logits: Any,
    params: SamplingParams,
    *,
    prompt_ids: Iterable[int] = (),
    output_ids: Iterable[int] = (),
    position: int = 0,
    completion: int = 0,
    n_tokens: int = 20,
) -> Trace:
    """Every stage of sampling one token from `logits` (vocab_size,) under `params`.

    prompt_ids and output_ids: the tokens so far, for penalties.  n_tokens: how many to follow.
    Raises SamplingError where the op would report an error status.
    """
    x = _checked(logits)
    row = _row(params, position, completion)
    dists = _distributions(x, params, row, prompt_ids, output_ids)
    u = None if params.greedy else reference.uniform(int(row["seed"]), position, completion)
    token_id = reference.draw(dists[-1][1], 0.0 if u is None else u)
    kept = [x > -np.inf, *(p > 0 for _, p in dists[1:])]
    return Trace(
        token_id=token_id,
        u=u,
        seed=int(row["seed"]),
        position=position,
        cdf=reference.cdf_interval(dists[-1][1], token_id),
        stages=_stage_traces(dists, kept),
        tokens=_token_traces(x, dists, token_id, n_tokens),
    )


def redraws(
    logits: Any,
    params: SamplingParams,
    n: int,
    *,
    prompt_ids: Iterable[int] = (),
    output_ids: Iterable[int] = (),
    position: int = 0,
) -> list[int]:
    """The tokens that completions 0 to n - 1 draw at this position, each with its own number."""
    row = _row(params, position, 0)
    w = _distributions(_checked(logits), params, row, prompt_ids, output_ids)[-1][1]
    seed = int(row["seed"])
    return [reference.draw(w, reference.uniform(seed, position, i)) for i in range(n)]


def _distributions(
    x: Any,
    params: SamplingParams,
    row: Any,
    prompt_ids: Iterable[int],
    output_ids: Iterable[int],
) -> list[tuple[str, Any]]:
    """(name, probabilities) after each stage that is on; the last is what is drawn from."""
    params.check_vocabulary(len(x))
    steps = _early_stages(x, params, row, Counter(prompt_ids), Counter(output_ids))
    z = steps[-1][1]
    dists = [(name, _probs(values, 1.0)) for name, values in steps]
    if params.greedy:
        return [*dists, ("greedy", np.eye(1, len(z), int(np.argmax(z)))[0])]
    cuts = reference.stages(z, row)
    return dists + [(s.name, _probs(s.logits, params.temperature)) for s in cuts]


def _checked(logits: Any) -> NDArray[np.float32]:
    x = np.asarray(logits, np.float32)
    if x.ndim != 1 or not len(x):
        raise SamplingError(
            f"trace takes the logits of one position, (vocab_size,); got shape {x.shape}"
        )
    if np.isnan(x).any() or np.isposinf(x).any():
        raise SamplingError("trace takes logits without NaN and +inf; these have some")
    return x


def _row(params: SamplingParams, position: int, completion: int) -> Any:
    rows = sample.new_rows(1)
    for name in rows.dtype.names or ():
        if hasattr(params, name) and name != "seed":
            rows[name] = getattr(params, name)
    rows["seed"], rows["position"], rows["completion"] = params.fixed_seed(), position, completion
    return rows[0]


def _early_stages(
    x: Any, params: SamplingParams, row: Any, prompt: Counter[int], output: Counter[int]
) -> list[tuple[str, Any]]:
    """(name, logits) of the model, then after bias, penalties and mask, as far as they are on."""
    none = np.zeros(0, np.uint32)
    steps = [("model", x)]
    if params.logit_bias:
        biases = np.array(list(params.logit_bias.items()), sample.BIAS)
        steps.append(("logit_bias", reference.adjusted(steps[-1][1], row, none, biases, none)))
    if params.has_penalties:
        tokens = [(t, prompt[t], output[t]) for t in sorted({*prompt, *output})]
        penalties = np.array(tokens, sample.PENALTY)
        steps.append(("penalties", reference.adjusted(steps[-1][1], row, penalties, none, none)))
    if params.allowed_token_ids is not None:
        allowed = sample.pack_allowed(params.allowed_token_ids, len(x))
        steps.append(("allowed", reference.adjusted(steps[-1][1], row, none, none, allowed)))
    if np.isneginf(steps[-1][1]).all():
        raise SamplingError("no token is left: every one is masked, banned or at -inf")
    return steps


def _probs(logits: Any, temperature: float) -> Any:
    if np.isneginf(logits).all():
        return np.zeros(len(logits))
    w = reference.weights(logits, logits > -np.inf, temperature)
    return w / w.sum()


def _stage_traces(dists: list[tuple[str, Any]], kept: list[Any]) -> list[StageTrace]:
    found = []
    n_before = len(kept[0])
    for (name, p), keep in zip(dists, kept, strict=True):
        some = p[p > 0]
        entropy = float(-np.sum(some * np.log(some))) + 0.0
        n_kept = int(np.count_nonzero(keep))
        found.append(StageTrace(name, n_kept, entropy, math.exp(entropy), n_before - n_kept))
        n_before = n_kept
    return found


def _token_traces(
    x: Any, dists: list[tuple[str, Any]], token_id: int, n_tokens: int
) -> list[TokenTrace]:
    ids = [int(t) for t in reference.falling(x)[:n_tokens]]
    if token_id not in ids:
        ids.append(token_id)
    found = []
    for t in ids:
        probs = {name: float(p[t]) for name, p in dists}
        removed_by = next((name for name, p in probs.items() if p == 0.0), None)
        found.append(TokenTrace(t, float(x[t]), probs, removed_by))
    return found
