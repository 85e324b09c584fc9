"""Stages 11 and 12 together in Numba: top-p and the draw, in one pass where possible; see top_p.h.

The pass adds up all weights, and those above `upper` by blocks of 1024 tokens, and lists the tokens
from `lower` to `upper`, among which the prefix must end:
  lower   tokens below a weight of (1 - p) / n together weigh less than 1 - p of the total (which is
          at least 1, the weight of the best), so the prefix ends before them;
  upper   the top, for a row where few tokens carry the weight.  For a flat row both come from a
          sample; if the sums show that it was wrong, the pass is repeated with the bounds that
          cannot be.  If they are one value, the end lies among equals, which need only be counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyroclast_kernels.numba.masks import (
    above,
    at_least,
    blend,
    compress_f32,
    compress_i32,
    count,
    equal,
    lane_ids,
    load_row,
    lowest_bit,
    where_at_least,
)
from pyroclast_kernels.numba.simd import (
    apart,
    inline,
    load_f32,
    load_f64,
    load_i32,
    outline,
    reduce_add,
    splat,
    stack,
    store_f32x16,
    store_f64,
    store_i64,
)
from pyroclast_kernels.sample.numba.bracket import LONG_LIST, bracket, select, weights_of_logits
from pyroclast_kernels.sample.numba.draw import draw, draw_from_blocks
from pyroclast_kernels.sample.numba.lanes import (
    ALL_TIES,
    BLOCK,
    FLOAT_MAX,
    LEAST,
    NO_LOGIT,
    Cut,
    first_equal,
    inside,
    logit_of_weight,
    store_weights,
    weigh,
)


class Pass(NamedTuple):
    """What one pass finds: weights of all tokens, of those above upper (by blocks in block_sums),
    and of those from lower to upper; how many are above, in all the blocks, and between; and how
    many of the latter are in the list, which is all of them, or none if lower == upper."""

    total: Any
    above_upper: Any
    listed: Any
    n_above: Any
    n_blocks: Any
    n_between: Any
    n_listed: Any


@inline
def _one_block(logits: Any, begin: int, end: int, by: Any, bounds: Any, s: Any, listed: int) -> Any:
    """(16 sums of all weights, of those above, of those between; n_above, n_between, the length of
    the list after them)."""
    lowest, lower, upper, equals = bounds
    all_, beyond, between = splat(0.0), splat(0.0), splat(0.0)
    n_above, n_between = 0, 0
    for i in range(begin, end, 16):
        x = load_row(logits, i, end, splat(NO_LOGIT))
        w = where_at_least(x, splat(lowest), weigh(x, by))
        all_ = all_ + w
        over = above(x, splat(upper))
        mask = at_least(x, splat(lower)) & ~over
        beyond = beyond + blend(over, w, splat(0.0))
        n_above += count(over)
        if mask != 0:
            between = between + blend(mask, w, splat(0.0))
            n_between += count(mask)
            if not equals:
                compress_f32(s.top_logits, 4 * listed, x, mask)
                compress_i32(s.top_ids, 4 * listed, lane_ids(i), mask)
                listed += count(mask)
    return (all_, beyond, between), n_above, n_between, listed


@outline
def _pass(logits: Any, n: int, by: Any, lowest: Any, lower: Any, upper: Any, s: Any) -> Any:
    apart()
    bounds = (lowest, max(lower, lowest), max(upper, lowest), lower == upper)
    total, above_upper, listed = 0.0, 0.0, 0.0
    n_above, n_between, n_listed, n_blocks = 0, 0, 0, 0
    for begin in range(0, n, BLOCK):
        sums, over, between, n_listed = _one_block(
            logits, begin, min(n, begin + BLOCK), by, bounds, s, n_listed
        )
        beyond = np.float64(reduce_add(sums[1]))
        store_f64(s.block_sums, 8 * n_blocks, beyond)
        total += reduce_add(sums[0])
        above_upper += beyond
        listed += reduce_add(sums[2])
        n_above, n_between, n_blocks = n_above + over, n_between + between, n_blocks + 1
    return Pass(total, above_upper, listed, n_above, n_blocks, n_between, n_listed)


@inline
def _cut_of_list(found: Any, by: Any, top_p: Any, s: Any) -> Any:
    """The cut, within the list: the sums are known by now, and with them how much of the list is
    not needed."""
    goal = top_p * found.total - found.above_upper
    spare, least = 0.99 * (found.listed - goal), LEAST
    if spare > 0.0:
        least = np.float32(logit_of_weight(spare / found.n_listed, by))
    kept = 0
    for i in range(0, found.n_listed, 16):
        x = load_row(s.top_logits, i, found.n_listed, splat(NO_LOGIT))
        mask = at_least(x, splat(least))
        if mask != 0:
            compress_f32(s.values, 4 * kept, x, mask)
            kept += count(mask)
    return select(kept, goal, store_weights(s.values, kept, s.weights, by), s)


@outline
def _add_to_blocks(found: Any, by: Any, cut: Any, s: Any) -> Any:
    """Adds the listed tokens inside the cut to the blocks' sums; returns how many there are."""
    apart()
    n_kept, block, ties_left = 0, 0, cut.n_ties
    store_i64(s.block_ties, 0, ties_left)
    weights = stack(64)
    for i in range(0, found.n_listed, 16):
        x = load_row(s.top_logits, i, found.n_listed, splat(NO_LOGIT))
        left = ties_left
        mask, ties_left = inside(x, cut, ties_left)
        tied = equal(x, splat(cut.value))
        n_kept += count(mask)
        store_f32x16(weights, 0, weigh(x, by))
        lanes = mask | tied
        while lanes != 0:
            lane = lowest_bit(lanes)
            lanes &= lanes - 1
            token_block = np.int64(load_i32(s.top_ids, 4 * (i + lane))) // BLOCK
            while block < token_block:
                block += 1
                store_i64(s.block_ties, 8 * block, left)
            if (mask >> lane) & 1:
                before = load_f64(s.block_sums, 8 * block)
                store_f64(s.block_sums, 8 * block, before + load_f32(weights, 4 * lane))
                if left != ALL_TIES:
                    left -= (tied >> lane) & 1
    for b in range(block + 1, found.n_blocks):
        store_i64(s.block_ties, 8 * b, ties_left)
    return n_kept


@inline
def _counted_ties(found: Any, goal: Any) -> Any:
    """How many of the equals it takes, where lower == upper; each weighs the same."""
    of_one = found.listed / found.n_between
    needed = np.ceil((goal - found.above_upper) / of_one)
    return max(np.int64(1), np.int64(needed)) if needed < found.n_between else ALL_TIES


@inline
def _draw_after(found: Any, logits: Any, n: int, by: Any, top_p: Any, u: Any, s: Any) -> Any:
    """(the index drawn, how many tokens are left) once the list holds the end of the prefix."""
    cut = _cut_of_list(found, by, top_p, s)
    if found.n_above == 0:
        index, n_kept = draw(s.top_logits, found.n_listed, by, cut, u, s)
        return np.int64(load_i32(s.top_ids, 4 * index)), n_kept
    if found.n_listed > LONG_LIST:
        return draw(logits, n, by, cut, u, s)
    n_kept = found.n_above + _add_to_blocks(found, by, cut, s)
    return draw_from_blocks(logits, n, by, cut, u, found.n_blocks, s), n_kept


@outline
def draw_top_p(logits: Any, n: int, by: Any, lowest: Any, top_p: Any, u: Any, s: Any) -> Any:
    """Draws among the logits that are at least `lowest`, after top-p: (an index into `logits`, how
    many tokens are left)."""
    apart()
    if top_p <= 0.0:
        return first_equal(logits, n, by.maximum), 1
    floor = np.float32(logit_of_weight(0.99 * (1.0 - top_p) / n, by))
    lower, upper, sampled = floor, FLOAT_MAX, False
    if n >= LONG_LIST:
        lower, upper, sampled = bracket(logits, n, top_p, s, weights_of_logits, (lowest, by))
    lower = max(lower, floor)
    found = _pass(logits, n, by, lowest, lower, upper, s)
    goal = top_p * found.total
    if sampled and (found.above_upper >= goal or found.above_upper + found.listed < goal):
        lower, upper = floor, FLOAT_MAX
        found = _pass(logits, n, by, lowest, lower, upper, s)
        goal = top_p * found.total
    if lower == upper:
        return draw(logits, n, by, Cut(upper, _counted_ties(found, goal)), u, s)
    return _draw_after(found, logits, n, by, top_p, u, s)
