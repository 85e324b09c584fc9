"""Lists of tokens and the draw, in Numba: the way of list.h.

The draw adds the weights inside a cut up by blocks of 1024 tokens; the random number picks a block,
and only that block is walked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.masks import (
    at_least,
    blend,
    compress_f32,
    compress_i32,
    count,
    lane_ids,
    load_row,
)
from pyroclast_kernels.numba.simd import (
    apart,
    inline,
    load_f32,
    load_f32x16,
    load_f64,
    load_i32x16,
    load_i64,
    outline,
    reduce_add,
    splat,
    store_f32x16,
    store_f64,
    store_i64,
)
from pyroclast_kernels.sample.numba.lanes import (
    ALL_TIES,
    BLOCK,
    LEAST,
    NO_LOGIT,
    inside,
    weigh,
)


@inline
def uniform(seed: Any, position: Any, completion: Any) -> Any:
    """53 random bits as a number in [0, 1): Philox4x32-10 (Salmon et al. 2011) on (seed; position,
    completion)."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    seed, position, completion = np.uint64(seed), np.uint64(position), np.uint64(completion)
    c0, c1, c2, c3 = position & low, position >> half, completion & low, completion >> half
    k0, k1 = seed & low, seed >> half
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (p1 >> half) ^ c1 ^ k0, p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ k1, p0 & low
        k0 = (k0 + np.uint64(0x9E3779B9)) & low
        k1 = (k1 + np.uint64(0xBB67AE85)) & low
    return np.float64(((c0 << half) | c1) >> np.uint64(11)) * 2.0**-53


# ---- lists: ids (int32) and logits, in order of id ----------------------------------------------


@outline
def gather(ids: Any, logits: Any, z: Any, n: int, lowest: Any) -> Any:
    """Lists the tokens whose logits are at least `lowest` > -inf; how many there are."""
    apart()
    listed = 0
    for i in range(0, n, 16):
        x = load_row(z, i, n, splat(NO_LOGIT))
        mask = at_least(x, splat(lowest))
        if mask != 0:
            compress_f32(logits, 4 * listed, x, mask)
            compress_i32(ids, 4 * listed, lane_ids(i), mask)
            listed += count(mask)
    return listed


@outline
def keep(ids: Any, logits: Any, n: int, keys: Any, cut: Any) -> Any:
    """Shortens a list to the prefix `cut` of the falling order of `keys`; ids stay in order."""
    apart()
    kept, ties_left = 0, cut.n_ties
    for i in range(0, n, 16):
        mask, ties_left = inside(load_row(keys, i, n, splat(NO_LOGIT)), cut, ties_left)
        if mask != 0:
            x, lanes = load_f32x16(logits, 4 * i), load_i32x16(ids, 4 * i)
            compress_f32(logits, 4 * kept, x, mask)
            compress_i32(ids, 4 * kept, lanes, mask)
            kept += count(mask)
    return kept


# ---- the draw -----------------------------------------------------------------------------------


@inline
def _walk(weights: Any, n: int, t: Any) -> Any:
    """The index in [0, n) at which the running sum of `weights` first exceeds t; where rounding
    keeps it below, the last index whose weight is not 0."""
    running, last = 0.0, 0
    for i in range(n):
        weight = load_f32(weights, 4 * i)
        if weight > np.float32(0):
            last = i
            running += weight
            if running > t:
                break
    return last


@inline
def _pick_block(sums: Any, n_blocks: int, t: Any) -> Any:
    """(the block in which the running sum of `sums` exceeds t, what is left of t inside it)."""
    last, before, running = 0, 0.0, 0.0
    for b in range(n_blocks):
        of_block = load_f64(sums, 8 * b)
        if of_block > 0.0:
            last, before = b, running
            running += of_block
            if running > t:
                break
    return last, t - before


@outline
def draw_from_blocks(logits: Any, n: int, by: Any, cut: Any, u: Any, n_blocks: int, s: Any) -> Any:
    """The index drawn at u, once block_sums and block_ties are known."""
    apart()
    total = 0.0
    for b in range(n_blocks):
        total += load_f64(s.block_sums, 8 * b)
    block, t = _pick_block(s.block_sums, n_blocks, u * total)
    begin = block * BLOCK
    end = min(n, begin + BLOCK)
    ties_left = load_i64(s.block_ties, 8 * block)
    for i in range(begin, end, 16):
        x = load_row(logits, i, end, splat(NO_LOGIT))
        mask, ties_left = inside(x, cut, ties_left)
        store_f32x16(s.block_weights, 4 * (i - begin), blend(mask, weigh(x, by), splat(0.0)))
    return begin + _walk(s.block_weights, end - begin, t)


@inline
def _sum_whole_block(logits: Any, begin: int, end: int, by: Any) -> Any:
    """(16 sums of the weights of a block from which nothing is cut, how many are not -inf)."""
    a, b, kept, i = splat(0.0), splat(0.0), 0, begin
    least = splat(LEAST)
    while i + 32 <= end:
        x, y = load_f32x16(logits, 4 * i), load_f32x16(logits, 4 * i + 64)
        a, b = a + weigh(x, by), b + weigh(y, by)
        kept += count(at_least(x, least) | (at_least(y, least) << 16))
        i += 32
    while i < end:
        x = load_row(logits, i, end, splat(NO_LOGIT))
        y = load_row(logits, i + 16, end, splat(NO_LOGIT))
        a, b = a + weigh(x, by), b + weigh(y, by)  # the weight of -inf is 0
        kept += count(at_least(x, least) | (at_least(y, least) << 16))
        i += 32
    return a + b, kept


@inline
def _sum_cut_block(logits: Any, begin: int, end: int, by: Any, cut: Any, ties_left: int) -> Any:
    """(16 sums of the weights inside the cut, how many there are, how many ties are left)."""
    a, b, kept = splat(0.0), splat(0.0), 0
    for i in range(begin, end, 32):
        x = load_row(logits, i, end, splat(NO_LOGIT))
        y = load_row(logits, i + 16, end, splat(NO_LOGIT))
        first, ties_left = inside(x, cut, ties_left)
        second, ties_left = inside(y, cut, ties_left)
        if first | second:
            a = a + blend(first, weigh(x, by), splat(0.0))
            b = b + blend(second, weigh(y, by), splat(0.0))
            kept += count(first | (second << 16))
    return a + b, kept, ties_left


@outline
def draw(logits: Any, n: int, by: Any, cut: Any, u: Any, s: Any) -> Any:
    """Draws one of the n tokens inside the cut: (its index, how many tokens are inside)."""
    apart()
    n_blocks, n_kept, ties_left = 0, 0, cut.n_ties
    whole = cut.value == LEAST and ties_left == ALL_TIES
    for begin in range(0, n, BLOCK):
        end = min(n, begin + BLOCK)
        store_i64(s.block_ties, 8 * n_blocks, ties_left)
        if whole:
            sums, kept = _sum_whole_block(logits, begin, end, by)
        else:
            sums, kept, ties_left = _sum_cut_block(logits, begin, end, by, cut, ties_left)
        store_f64(s.block_sums, 8 * n_blocks, np.float64(reduce_add(sums)))
        n_kept += kept
        n_blocks += 1
    return draw_from_blocks(logits, n, by, cut, u, n_blocks, s), n_kept
