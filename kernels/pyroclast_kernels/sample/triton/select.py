"""The cut of every row that has a list, or should have had one, in Triton: one program per row.

A cut is found between two places by summing what lies above three places in between, again and
again, until one token is left between the two.  Every pass reads the row, or its list, once; there
are at most 27, whatever the logits, and half as many for most.  This is the
slowest path, and a language model's logits rarely need it: most lists are short and cut otherwise.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.sample.triton.list import adjusted_logits, chunk_of
from pyroclast_kernels.sample.triton.memory import (
    CENTRE,
    COUNT_CUT,
    CUT,
    DONE,
    LIST,
    MAXIMUM,
    N_LISTED,
    NEAR_CUT,
    OUT_FIELDS,
    PART,
    ROW_FIELDS,
    SHORT_LIST,
    STAGE,
    STATE,
    SUM,
    TEMPERATURE,
    TILE,
    TO_DRAW,
    TO_LIST,
    TO_SELECT,
    TOP_K,
    TOP_P,
    TYPICAL_P,
)
from pyroclast_kernels.sample.triton.order import (
    NOWHERE,
    inverse,
    is_within,
    place_of,
    value_at,
    weight,
)
from pyroclast_kernels.sample.triton.short import draw_from_list


@triton.jit
def nearness(x, centre):
    """float32, larger the nearer x is to the centre, a float64 scalar."""
    return -tl.abs(x.to(tl.float64) - centre).to(tl.float32)


@triton.jit
def _tokens(source, cuts, chunk, by_nearness: tl.constexpr):
    """(float32 logits, places in the order that is cut by) of a chunk of the tokens in `source`;
    NOWHERE for those that the cuts so far do not keep.

    source: pointers to logits and ids, how many there are, and whether ids are to be read at all:
    those of a row are 0, 1, 2, ...  cuts: the last place kept, the last by nearness, the centre.
    """
    x, list_ids, n, is_list = source
    cut, near_cut, centre = cuts
    ids, values = chunk_of(x, chunk, n, TILE)
    if is_list:
        ids = tl.load(list_ids + ids, mask=ids < n, other=0)
    kept = is_within(values, ids, cut)
    key = values
    if by_nearness:
        key = nearness(values, centre)
    elif near_cut > NOWHERE:
        kept = kept & is_within(nearness(values, centre), ids, near_cut)
    return values, tl.where(kept, place_of(key, ids), NOWHERE)


@triton.jit
def _bounds(source, cuts, by_nearness: tl.constexpr):
    """(the last place, the first place, the number) of the kept tokens."""
    n_tokens = source[2]
    least = tl.full((TILE,), -NOWHERE, tl.int64)
    most = tl.full((TILE,), NOWHERE, tl.int64)
    n = tl.zeros((TILE,), tl.int32)
    chunk = 0
    while chunk * TILE < n_tokens:
        place = _tokens(source, cuts, chunk, by_nearness)[1]
        kept = place > NOWHERE
        least = tl.minimum(least, tl.where(kept, place, -NOWHERE))
        most = tl.maximum(most, place)
        n += kept.to(tl.int32)
        chunk += 1
    return tl.min(least, 0), tl.max(most, 0), tl.sum(n, 0)


@triton.jit
def _totals(source, cuts, maximum, by):
    """(the weight, the weighted logits less the maximum) of the kept tokens, float64."""
    n_tokens = source[2]
    total = tl.zeros((TILE,), tl.float64)
    moment = tl.zeros((TILE,), tl.float64)
    chunk = 0
    while chunk * TILE < n_tokens:
        x, place = _tokens(source, cuts, chunk, False)
        kept = place > NOWHERE
        w = tl.where(kept, weight(x, maximum, by), 0.0).to(tl.float64)
        total += w
        moment += w * tl.where(kept, x.to(tl.float64) - maximum, 0.0)
        chunk += 1
    return tl.sum(total, 0), tl.sum(moment, 0)


@triton.jit
def _down_to(source, cuts, maximum, by, t1, t2, t3, by_nearness: tl.constexpr):
    """The kept tokens whose place is at least t1, or t2, or t3: their weights and numbers."""
    n_tokens = source[2]
    n1 = tl.zeros((TILE,), tl.int32)
    n2, n3 = n1, n1
    s1 = tl.zeros((TILE,), tl.float64)
    s2, s3 = s1, s1
    chunk = 0
    while chunk * TILE < n_tokens:
        x, place = _tokens(source, cuts, chunk, by_nearness)
        w = weight(x, maximum, by).to(tl.float64)
        n1 += (place >= t1).to(tl.int32)
        n2 += (place >= t2).to(tl.int32)
        n3 += (place >= t3).to(tl.int32)
        s1 += tl.where(place >= t1, w, 0.0)
        s2 += tl.where(place >= t2, w, 0.0)
        s3 += tl.where(place >= t3, w, 0.0)
        chunk += 1
    sums = tl.sum(s1, 0), tl.sum(s2, 0), tl.sum(s3, 0)
    return sums, (tl.sum(n1, 0), tl.sum(n2, 0), tl.sum(n3, 0))


@triton.jit
def _reached(sum, number, goal, by_count: tl.constexpr):
    """Whether tokens with that weight and number reach the goal; none never do."""
    if by_count:
        return number >= goal
    return (sum >= goal) & (number > 0)


@triton.jit
def _select(
    source, cuts, maximum, by, goal, by_nearness: tl.constexpr, by_count: tl.constexpr
):  # fmt: skip
    """The first place of the kept tokens down to which their weights, or their number, reach the
    goal, which all of them together do; the first of all if the goal is 0.

    `low` is a place down to which the goal is reached, `high` one down to which it is not; of the
    three places that cut the range between them in four, one becomes low, and its upper neighbour
    high.  Sums that leave out some of the same addends are never larger, so the three agree.
    """
    low, high, n_low = _bounds(source, cuts, by_nearness)
    high += 1
    n_high = 0 * n_low
    while n_low - n_high > 1:
        step = high - low
        t1, t2, t3 = low + (step + 3) // 4, low + (2 * step + 3) // 4, low + (3 * step + 3) // 4
        sums, numbers = _down_to(source, cuts, maximum, by, t1, t2, t3, by_nearness)
        s1, s2, s3 = sums
        n1, n2, n3 = numbers
        r1 = _reached(s1, n1, goal, by_count)
        r2 = _reached(s2, n2, goal, by_count)
        r3 = _reached(s3, n3, goal, by_count)
        high = tl.where(r3, high, tl.where(r2, t3, tl.where(r1, t2, t1)))
        n_high = tl.where(r3, n_high, tl.where(r2, n3, tl.where(r1, n2, n1)))
        low = tl.where(r3, t3, tl.where(r2, t2, tl.where(r1, t1, low)))
        n_low = tl.where(r3, n3, tl.where(r2, n2, tl.where(r1, n1, n_low)))
    return low


@triton.jit
def _cut(source, state, state_f, row_f, top_k, total):
    """Stages 9 to 11: leaves the cuts, and the maximum logit that they keep.  total: the weight
    of all tokens, or 0 if they are all in `source`."""
    by = inverse(tl.load(row_f + TEMPERATURE))
    maximum = tl.load(state_f + MAXIMUM).to(tl.float32)
    cut, near_cut, centre = tl.load(state + CUT), tl.load(state + NEAR_CUT), 0.0 * total
    if top_k > 0:
        n = _bounds(source, (cut, near_cut, centre), False)[2]
        if n > top_k:
            cut = _select(source, (cut, near_cut, centre), maximum, by, top_k, False, True)
    typical_p = tl.load(row_f + TYPICAL_P)
    if typical_p < 1.0:
        weights, moment = _totals(source, (cut, near_cut, centre), maximum, by)
        centre = maximum + moment / weights
        goal = typical_p * weights
        near_cut = _select(source, (cut, near_cut, centre), maximum, by, goal, True, False)
        # The best logits may be gone: weigh by the best one left, so that not all weigh 0.
        maximum = value_at(_bounds(source, (cut, near_cut, centre), False)[1])
    top_p = tl.load(row_f + TOP_P)
    if top_p < 1.0:
        weights = _totals(source, (cut, near_cut, centre), maximum, by)[0]
        goal = top_p * tl.where(total > 0.0, total, weights)
        cut = _select(source, (cut, near_cut, centre), maximum, by, goal, False, False)
    tl.store(state + CUT, cut)
    tl.store(state + NEAR_CUT, near_cut)
    tl.store(state_f + CENTRE, centre)
    tl.store(state_f + MAXIMUM, maximum.to(tl.float64))
    tl.store(state + STAGE, TO_DRAW)


@triton.jit(do_not_specialize=["first_row", "n_chunks"])
def select(
    logits, n_rows, rows, rows_f, out, parts, state, state_f, list_z, list_ids, z, first_row,
    vocab_size, logits_stride, z_stride, n_chunks, n_lanes: tl.constexpr,
):  # fmt: skip
    """Grid (rows from first_row on,)."""
    slot = tl.program_id(0).to(tl.int64)
    r = first_row + slot
    if r >= tl.load(n_rows):
        return
    state += slot * STATE
    state_f += slot * STATE
    stage = tl.load(state + STAGE)
    if (stage != TO_LIST) & (stage != TO_SELECT):
        return
    row, row_f = rows + r * ROW_FIELDS, rows_f + r * ROW_FIELDS
    list_z += slot * LIST
    list_ids += slot * LIST
    if stage == TO_LIST:
        n, top_k = tl.load(state + N_LISTED).to(tl.int32), tl.load(state + COUNT_CUT)
        chunk = tl.arange(0, n_lanes)
        sums = parts + (slot * n_chunks + chunk) * PART + SUM
        total = tl.sum(tl.load(sums, mask=chunk < n_chunks, other=0.0), 0)
        total = tl.where(top_k > 0, 0.0, total)
        if n <= SHORT_LIST:
            maximum = tl.load(state_f + MAXIMUM).to(tl.float32)
            out += r * OUT_FIELDS
            draw_from_list(list_z, list_ids, n, total, maximum, top_k, row, row_f, out)
            tl.store(state + STAGE, DONE)
        else:
            _cut((list_z, list_ids, n, True), state, state_f, row_f, top_k, total)
    else:
        x = adjusted_logits(logits, z, row, r, slot, logits_stride, z_stride)
        top_k = tl.load(row + TOP_K)
        top_k = tl.where(top_k < vocab_size, top_k, 0)
        total = 0.0 * tl.load(state_f + MAXIMUM)
        _cut((x, list_ids, vocab_size, False), state, state_f, row_f, top_k, total)
