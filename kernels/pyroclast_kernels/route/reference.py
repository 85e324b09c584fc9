"""What `route` and `group` mean, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.route import SCORINGS

Array = NDArray[Any]


def scores_of(logits: Array, scoring: int) -> Array:
    """float32 scores of router logits (n_tokens, n_experts): SCORINGS[scoring]."""
    with np.errstate(all="ignore"):
        if SCORINGS[scoring] == "softmax":
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            y: Array = weights / weights.sum(axis=1, keepdims=True)
        else:
            y = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return y


def route(
    n_tokens: Array,
    logits: Array,
    bias: Array | None,
    gate_scales: Array | None,
    experts: Array,
    gates: Array,
    n_experts: int,
    n_active: int,
    scoring: int,
    renormalize: int,
    scale: float,
) -> None:
    """The n_active experts of each token (Shazeer et al. 2017), best first, and their gates.

    n_tokens int64 (1,); logits float32 (max_batch_tokens, n_experts), the router's product; bias
    and gate_scales float32 (n_experts,) or None; experts int32 and gates float32 (max_batch_tokens,
    n_active).  Chosen are the largest logits or, with a bias, the largest scores + bias; scores =
    SCORINGS[scoring] of all logits.  Of equals the lower index comes first; NaN is above all
    numbers.  gates = scale * scores without the bias; `renormalize` divides them by their sum
    first, unless that is 0.  So softmax with renormalize is the softmax of the chosen logits.
    gate_scales, where there are such, multiply the gates of their experts last of all.  A NaN among
    a token's logits makes a gate of that token NaN, and no index leaves the range.
    """
    t = int(n_tokens[0])
    assert 1 <= n_active <= n_experts == logits.shape[1]
    scores = scores_of(logits[:t], scoring)
    keys = logits[:t] if bias is None else scores + bias
    is_nan = np.isnan(keys)
    # lexsort is stable and ascending, its last key the first to decide.
    chosen = np.lexsort((np.where(is_nan, 0, -keys), ~is_nan), axis=1)[:, :n_active]
    weights = np.take_along_axis(scores, chosen, axis=1)
    if renormalize:
        total = weights.sum(axis=1, keepdims=True)
        with np.errstate(all="ignore"):
            weights = np.where(total == 0, weights, weights / total)
    weights = weights * np.float32(scale)
    experts[:t] = chosen
    gates[:t] = weights if gate_scales is None else weights * gate_scales[chosen]


def group(
    n_tokens: Array, experts: Array, order: Array, starts: Array, n_experts: int, n_active: int
) -> None:
    """Sorts the pairs (token, slot) by their expert, so that each expert's weights are read once.

    n_tokens int64 (1,); experts int32 (max_batch_tokens, n_active), in [0, n_experts).  A pair's
    number is token * n_active + slot.  order int32 (max_batch_tokens * n_active,): the numbers of
    the step's pairs, by expert and then rising; starts int32 (n_experts + 1,): expert e has
    order[starts[e] : starts[e + 1]].  Without tokens nothing is written.
    """
    t = int(n_tokens[0])
    if t == 0:
        return
    flat = experts[:t, :n_active].reshape(-1)
    order[: len(flat)] = np.argsort(flat, kind="stable")
    starts[0] = 0
    starts[1:] = np.cumsum(np.bincount(flat, minlength=n_experts))
