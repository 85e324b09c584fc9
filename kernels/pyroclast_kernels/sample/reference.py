"""What `sample` means, in NumPy and float64: readable, slow, and the definition.

One row of float32 logits goes through these stages, in this order (vLLM's, wherever vLLM has the
stage; top_n_sigma and typical_p stand where llama.cpp has them, relative to their neighbours):

1. check     A NaN or +inf among the row's own logits: status NOT_FINITE.  An overflow of the model
             is never turned into a token.  -inf is legal: a token that cannot be chosen.
2. bias      logit += bias (float32), entry by entry.
3. penalties For each listed token: if it occurs in prompt or output, logit /= repetition_penalty
             where logit > 0, else logit *= it; then logit -= frequency_penalty * n_output; then
             logit -= presence_penalty if n_output > 0.  In float64, rounded once to float32.
4. mask      Tokens that are not allowed get -inf.  If no finite logit is left: NOTHING_ALLOWED.
             Penalties and biases that overflow float32 are clipped to its largest values.
5. greedy    temperature < 1e-5: the maximum logit, the lowest token id among equals.  Done.
6. temperature   weight w = exp((logit - max logit) / temperature).  Probability is w / sum(w).
7. top_n_sigma   keep logit >= max - top_n_sigma * s, s the population standard deviation of the
             finite logits.  (Dividing all by the temperature would not change this.)
8. min_p     keep (logit - max) / temperature >= ln(min_p): probability >= min_p * the maximum.
9. top_k     keep the first k in order of falling logit, rising token id among equals: exactly k.
10. typical_p   with c the mean of the kept logits under their renormalised probabilities, keep the
             shortest prefix, in order of rising |logit - c|, rising token id among equals, whose
             renormalised probability reaches typical_p.  (|logit - c| / temperature is the
             distance of a token's surprise from the entropy: Meister et al. 2022.)
11. top_p    in the order of top_k, keep the shortest prefix whose renormalised probability reaches
             top_p (Holtzman et al. 2020).  At least one token; all of them where top_p is 1.
12. draw     t = u * sum(kept w); walk the kept tokens in order of token id, adding up w: the first
             whose running sum exceeds t.  u in [0, 1): 53 bits of Philox4x32-10 (Salmon et al.
             2011), key = seed, counter = (position, completion).

So k = 1, top_p = 0 and min_p = 1 without ties are greedy; k = 0, k >= the vocabulary, top_p = 1,
min_p = 0, typical_p = 1 and top_n_sigma = 0 keep everything.

The draw is an inverse of the cumulative distribution, not a Gumbel maximum: one uniform number and
no logarithms per row instead of one of each per token, and a kernel needs only sums of blocks.
Kernels compute w in float32, so their sums differ from these by about 1e-6 of the total: a token
may differ from this one only if u falls that close to a step of the cumulative distribution, and a
cut only if the running sum comes that close to its goal.  `cdf_interval` lets tests tell.

What is reported of a token (want_logprob, target, n_top) is about the row's own logits: log-softmax
before stages 2 to 12, as in vLLM.  top: n_top tokens in the order of top_k.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyroclast_kernels.sample import (
    MIN_TEMPERATURE,
    NOT_FINITE,
    NOTHING_ALLOWED,
    OK,
    Array,
)

_FLOAT_MAX = float(np.finfo(np.float32).max)


class Stage(NamedTuple):
    """After one stage: `logits` float32 (vocab_size,), -inf where a token is out; `kept` bool."""

    name: str
    logits: Array
    kept: Array


def uniform(seed: int, position: int, completion: int = 0) -> float:
    """The one random number of a row, in [0, 1): Philox4x32-10 on (seed; position, completion)."""
    mask = 0xFFFFFFFF
    c = [position & mask, position >> 32 & mask, completion & mask, completion >> 32 & mask]
    k0, k1 = seed & mask, seed >> 32 & mask
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k0, p1 & mask, p0 >> 32 ^ c[3] ^ k1, p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return float((c[0] << 32 | c[1]) >> 11) * 2.0**-53


def falling(values: Array) -> Array:
    """Token ids in order of falling value, rising id among equals."""
    return np.argsort(-values, kind="stable")


def adjusted(logits: Array, row: Array, penalties: Array, biases: Array, allowed: Array) -> Array:
    """Stages 2 to 4: float32 (vocab_size,), -inf for tokens that are not allowed."""
    z = logits.astype(np.float32)
    for token_id, bias in biases:
        z[token_id] = _clip(float(z[token_id]) + float(bias))
    for token_id, n_prompt, n_output in penalties:
        x = float(z[token_id])
        if n_prompt > 0 or n_output > 0:
            repetition = float(row["repetition_penalty"])
            x = x / repetition if x > 0 else x * repetition
        x -= float(row["frequency_penalty"]) * int(n_output)
        if n_output > 0:
            x -= float(row["presence_penalty"])
        z[token_id] = _clip(x)
    if len(allowed):
        bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")[: len(z)]
        z[bits == 0] = -np.inf
    return z


def _clip(x: float) -> np.float32:
    return np.float32(x if x == -np.inf else min(max(x, -_FLOAT_MAX), _FLOAT_MAX))


def weights(z: Array, kept: Array, temperature: float) -> Array:
    """float64 (vocab_size,): exp((z - max z) / temperature) where kept, else 0."""
    w = np.zeros(len(z))
    x = z[kept].astype(np.float64)
    w[kept] = np.exp((x - x.max()) / temperature)
    return w


def stages(z: Array, row: Array) -> list[Stage]:
    """Stages 6 to 11 on adjusted logits with at least one finite: one entry for each that is on.
    The last entry's `kept` holds the tokens that can be drawn."""
    temperature = float(row["temperature"])
    kept = z > -np.inf
    done = [Stage("temperature", z, kept)]

    def cut(name: str, keep: Array) -> None:
        nonlocal kept
        kept = kept & keep
        done.append(Stage(name, np.where(kept, z, np.float32(-np.inf)), kept))

    distance = z.astype(np.float64) - float(z.max())
    if row["top_n_sigma"] > 0:
        cut("top_n_sigma", distance >= -float(row["top_n_sigma"]) * np.std(distance[kept]))
    if row["min_p"] > 0:
        cut("min_p", distance >= temperature * np.log(float(row["min_p"])))
    if 0 < row["top_k"] < len(z):
        keep = np.zeros(len(z), bool)
        keep[falling(np.where(kept, z, -np.inf))[: row["top_k"]]] = True
        cut("top_k", keep)
    if row["typical_p"] < 1:
        w = weights(z, kept, temperature)
        mean = np.sum(w[kept] * distance[kept]) / w.sum()
        closeness = np.where(kept, -np.abs(distance - mean), -np.inf)
        cut("typical_p", shortest_prefix(falling(closeness), w, float(row["typical_p"])))
    if row["top_p"] < 1:
        w = weights(z, kept, temperature)
        order = falling(np.where(kept, z, -np.inf))
        cut("top_p", shortest_prefix(order, w, float(row["top_p"])))
    return done


def shortest_prefix(order: Array, w: Array, share: float) -> Array:
    """bool (vocab_size,): the first tokens of `order`, at least one and no more than it takes for
    their weights to reach `share` of the total."""
    cumulative = np.cumsum(w[order])
    n_kept = 1 + np.count_nonzero(cumulative < share * cumulative[-1])
    keep = np.zeros(len(w), bool)
    keep[order[:n_kept]] = True
    return keep


def draw(w: Array, u: float) -> int:
    """The token at u of the cumulative distribution over token ids; w float64 (vocab_size,)."""
    cumulative = np.cumsum(w)
    token_id = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return min(token_id, int(np.flatnonzero(w)[-1]))


def cdf_interval(w: Array, token_id: int) -> tuple[float, float]:
    """The range of u that chooses `token_id`."""
    cumulative = np.cumsum(w) / np.sum(w)
    return (float(cumulative[token_id - 1]) if token_id else 0.0, float(cumulative[token_id]))


def choose(z: Array, row: Array) -> tuple[int, int]:
    """Stages 5 to 12 on adjusted logits: the token id, and how many tokens could be drawn."""
    if row["temperature"] < MIN_TEMPERATURE:
        return int(np.argmax(z)), 1
    kept = stages(z, row)[-1].kept
    w = weights(z, kept, float(row["temperature"]))
    u = uniform(int(row["seed"]), int(row["position"]), int(row["completion"]))
    return draw(w, u), int(np.count_nonzero(kept))


def log_softmax(logits: Array) -> Array:
    """float64 like logits; needs one finite logit and neither NaN nor +inf."""
    x = logits.astype(np.float64)
    x -= x.max()
    return np.asarray(x - np.log(np.sum(np.exp(x))))


def sample(
    logits: Array,
    n_rows: Array,
    rows: Array,
    penalties: Array,
    biases: Array,
    allowed: Array,
    out: Array,
    top_ids: Array,
    top_logprobs: Array,
    scratch: Array,
    vocab_size: int,
    logits_stride: int,
    max_top: int,
    scratch_stride: int,
) -> None:
    """The op: see the package's docstring for shapes.  Strides and scratch are for kernels."""
    del scratch, logits_stride, max_top, scratch_stride
    n_words = -(-vocab_size // 32)
    for r in range(int(n_rows[0])):
        row = rows[r]
        start = int(row["allowed_start"])
        _sample_row(
            logits[r, :vocab_size],
            row,
            penalties[row["penalty_start"] :][: row["n_penalties"]],
            biases[row["bias_start"] :][: row["n_biases"]],
            allowed[start : start + n_words] if start >= 0 else allowed[:0],
            out[r : r + 1],
            top_ids[r],
            top_logprobs[r],
        )


def _sample_row(
    logits: Array,
    row: Array,
    penalties: Array,
    biases: Array,
    allowed: Array,
    out: Array,
    top_ids: Array,
    top_logprobs: Array,
) -> None:
    out[0] = (-1, OK, 0, 0, 0, np.nan)
    if np.isnan(logits).any() or np.isposinf(logits).any():
        out["status"] = NOT_FINITE
        return
    if np.isneginf(logits).all():
        out["status"] = NOTHING_ALLOWED
        return
    if row["target"] >= 0:
        out["token_id"] = row["target"]
    else:
        z = adjusted(logits, row, penalties, biases, allowed)
        if np.isneginf(z).all():
            out["status"] = NOTHING_ALLOWED
            return
        out["token_id"], out["n_kept"] = choose(z, row)
    if row["want_logprob"]:
        token_id = int(out["token_id"][0])
        out["logprob"] = log_softmax(logits)[token_id]
        out["rank"] = 1 + np.count_nonzero(logits > logits[token_id])
        out["is_greedy"] = token_id == np.argmax(logits)
    n_top = int(row["n_top"])
    if n_top:
        best = falling(logits)[: min(n_top, np.count_nonzero(logits > -np.inf))]
        top_ids[:n_top], top_logprobs[:n_top] = -1, -np.inf
        top_ids[: len(best)] = best
        top_logprobs[: len(best)] = log_softmax(logits)[best]
