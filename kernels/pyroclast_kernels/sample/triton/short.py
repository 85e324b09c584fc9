"""The cut and the draw among a short list of tokens, in Triton."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.sample.triton.memory import (
    N_KEPT,
    SHORT_LIST,
    TEMPERATURE,
    TOKEN_ID,
    TOP_P,
)
from pyroclast_kernels.sample.triton.order import (
    NOWHERE,
    first_beyond,
    inverse,
    place_of,
    uniform,
    weight,
)

_PAIRED = tl.constexpr(16)  # tokens against which all are held at once
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _down_to_each(places, list_z, list_ids, n, maximum, inverse_temperature):
    """(the weight, the number) of the n listed tokens down to each of `places`, which are theirs.
    Every token is compared with every other, which is quicker than sorting so few."""
    sums = tl.zeros(places.shape, tl.float64)
    numbers = tl.zeros(places.shape, tl.int32)
    first = 0
    while first < n:
        index = first + tl.arange(0, _PAIRED)
        there = index < n
        x = tl.load(list_z + index, mask=there, other=-_INFINITY)
        ids = tl.load(list_ids + index, mask=there, other=0)
        w = weight(x, maximum, inverse_temperature).to(tl.float64)
        others = tl.where(there, place_of(x, ids), NOWHERE)
        comes = others[None, :] >= places[:, None]
        sums += tl.sum(tl.where(comes, w[None, :], 0.0), 1)
        numbers += tl.sum(comes.to(tl.int32), 1)
        first += _PAIRED
    return sums, numbers


@triton.jit
def draw_from_list(list_z, list_ids, n, total, maximum, top_k, row, row_f, out):
    """Cuts the list of n tokens, which is in order of id, and draws one of it; total: the weight of
    all tokens."""
    index = tl.arange(0, SHORT_LIST)
    there = index < n
    x = tl.load(list_z + index, mask=there, other=-_INFINITY)
    ids = tl.load(list_ids + index, mask=there, other=0)
    places = tl.where(there, place_of(x, ids), NOWHERE)
    by = inverse(tl.load(row_f + TEMPERATURE))
    sums, numbers = _down_to_each(places, list_z, list_ids, n, maximum, by)
    kept = there
    if top_k > 0:
        kept = there & (numbers <= top_k)
        total = tl.max(tl.where(kept, sums, 0.0), 0)
    top_p = tl.load(row_f + TOP_P)
    if top_p < 1.0:
        before_goal = kept & (sums < top_p * total)
        kept = kept & (numbers <= 1 + tl.sum(before_goal.to(tl.int32), 0))
    w = tl.where(kept, weight(x, maximum, by), 0.0).to(tl.float64)
    chosen, _ = first_beyond(w, uniform(row) * tl.sum(w, 0), SHORT_LIST)
    tl.store(out + TOKEN_ID, tl.sum(tl.where(index == chosen, ids, 0), 0))
    tl.store(out + N_KEPT, tl.sum(kept.to(tl.int32), 0))
