"""The list of a row's best tokens, among which top-k or top-p cuts, in Triton.

`count` spreads a row's logits over a histogram of equal steps below the maximum.  From the counts
alone its last program bounds the weight of every bin on both sides, and so finds a bin behind which
nothing can be kept.  `listing` lists what comes before: each chunk knows its place in the list, so
that the list is in order of token id whoever writes first.  select.py goes on with it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import math

import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.split import is_last
from pyroclast_kernels.sample.triton.memory import (
    BINS,
    CHUNK,
    COUNT_CUT,
    CUT,
    LAST_BIN,
    LIST,
    MAXIMUM,
    N_LISTED,
    PART,
    PLACE,
    ROW_FIELDS,
    STAGE,
    STATE,
    SUM,
    TEMPERATURE,
    TO_COUNT,
    TO_DRAW,
    TO_LIST,
    TO_SELECT,
    TOP_K,
    TOP_P,
)
from pyroclast_kernels.sample.triton.order import (
    inverse,
    is_within,
    weight,
)
from pyroclast_kernels.sample.triton.survey import is_adjusted

# The bins reach 24 below the maximum exponent: what lies lower weighs less than 4e-11 of it.
_RANGE = tl.constexpr(24.0)
_STEP = tl.constexpr(math.exp(-24.0 / BINS.value))
_ROUNDING = tl.constexpr(0.9999)  # of a bound on sums: no rounding reaches as far
_CHUNKS = tl.constexpr(32)  # whose bins are read at once
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def adjusted_logits(logits, z, row, r, slot, logits_stride, z_stride):
    """A pointer to row r's adjusted logits: its own, or those in z."""
    x = logits + r * logits_stride
    if is_adjusted(row):
        x = z + slot * z_stride
    return x


@triton.jit
def chunk_of(x, chunk, vocab_size, size: tl.constexpr):
    """(ids, float32 logits) of a chunk of that size of the row at x; -inf behind its end."""
    ids = chunk * size + tl.arange(0, size)
    return ids, tl.load(x + ids, mask=ids < vocab_size, other=-_INFINITY) + 0.0


@triton.jit
def _bin_of(x, maximum, inverse_temperature):
    """int32: 0 for the maximum logit, BINS - 1 for all that are _RANGE below it or more."""
    steps = (maximum - x) * (inverse_temperature * (BINS / _RANGE))
    return tl.minimum(steps, BINS - 1.0).to(tl.int32)


@triton.jit
def _last_bin(counts, top_k, top_p):
    """The first bin with which top_k tokens, or top_p of the weight, have certainly come."""
    bins = tl.arange(0, BINS)
    most = counts.to(tl.float64) * tl.exp(bins.to(tl.float64) * (-_RANGE / BINS))
    least = tl.where(bins < BINS - 1, most * _STEP, 0.0)
    left_out = tl.cumsum(most, 0, reverse=True) - most  # at most
    may_miss = (1.0 - top_p) * tl.sum(least, 0) * _ROUNDING
    by_weight = tl.sum((left_out > may_miss).to(tl.int32), 0)
    by_count = tl.sum((tl.cumsum(counts, 0) < top_k).to(tl.int32), 0)
    return tl.minimum(tl.where(top_k > 0, by_count, by_weight), BINS - 1)


@triton.jit
def _plan(bins, parts, state, row, row_f, vocab_size, n_chunks):
    """What the last program of a row finds in all chunks' histograms."""
    at = tl.arange(0, _CHUNKS)
    bin = tl.arange(0, BINS)
    counts = tl.zeros((BINS,), tl.int32)
    first = 0
    while first < n_chunks:
        index = (first + at)[:, None] * BINS + bin[None, :]
        there = ((first + at) < n_chunks)[:, None]
        counts += tl.sum(tl.load(bins + index, mask=there, other=0, cache_modifier=".cg"), 0)
        first += _CHUNKS
    total = tl.sum(counts, 0)
    top_k, top_p = tl.load(row + TOP_K), tl.load(row_f + TOP_P)
    top_k = tl.where((top_k < vocab_size) & (top_k < total), top_k, 0)
    last_bin = _last_bin(counts, top_k, top_p)
    n_listed = tl.sum(tl.where(bin <= last_bin, counts, 0), 0)
    stage = tl.where(n_listed <= LIST, TO_LIST, TO_SELECT)
    n_listed = tl.where(n_listed <= LIST, n_listed, 0)
    stage = tl.where((top_k > 0) | (top_p < 1.0), stage, TO_DRAW)
    place = 0
    first = 0
    while first < n_chunks:
        index = (first + at)[:, None] * BINS + bin[None, :]
        there = ((first + at) < n_chunks)[:, None] & (bin <= last_bin)[None, :]
        n = tl.sum(tl.load(bins + index, mask=there, other=0, cache_modifier=".cg"), 1)
        places = place + tl.cumsum(n, 0) - n
        part = parts + (first + at) * PART
        tl.store(part + PLACE, places.to(tl.float64), mask=(first + at) < n_chunks)
        place += tl.sum(n, 0)
        first += _CHUNKS
    tl.store(state + STAGE, stage.to(tl.int64))
    tl.store(state + LAST_BIN, last_bin.to(tl.int64))
    tl.store(state + N_LISTED, n_listed.to(tl.int64))
    tl.store(state + COUNT_CUT, top_k)


@triton.jit(do_not_specialize=["first_row", "n_chunks"])
def count(
    logits, n_rows, rows, rows_f, parts, state, state_f, bins, z, counters, first_row, vocab_size,
    logits_stride, z_stride, n_chunks,
):  # fmt: skip
    """Grid (rows from first_row on, n_chunks)."""
    slot, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r = first_row + slot
    if r >= tl.load(n_rows):
        return
    state += slot * STATE
    if tl.load(state + STAGE) != TO_COUNT:
        return
    row, row_f = rows + r * ROW_FIELDS, rows_f + r * ROW_FIELDS
    x = adjusted_logits(logits, z, row, r, slot, logits_stride, z_stride)
    ids, x = chunk_of(x, chunk, vocab_size, CHUNK)
    maximum = tl.load(state_f + slot * STATE + MAXIMUM).to(tl.float32)
    bin = _bin_of(x, maximum, inverse(tl.load(row_f + TEMPERATURE)))
    counts = tl.histogram(bin, BINS, mask=is_within(x, ids, tl.load(state + CUT)))
    bins += slot * n_chunks * BINS
    tl.store(bins + chunk * BINS + tl.arange(0, BINS), counts)
    if is_last(counters + slot, n_chunks):
        _plan(bins, parts + slot * n_chunks * PART, state, row, row_f, vocab_size, n_chunks)


@triton.jit(do_not_specialize=["first_row", "n_chunks"])
def listing(
    logits, n_rows, rows, rows_f, parts, state, state_f, list_z, list_ids, z, first_row, vocab_size,
    logits_stride, z_stride, n_chunks,
):  # fmt: skip
    """Grid (rows from first_row on, n_chunks)."""
    slot, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r = first_row + slot
    if r >= tl.load(n_rows):
        return
    state += slot * STATE
    if tl.load(state + STAGE) != TO_LIST:
        return
    row, row_f = rows + r * ROW_FIELDS, rows_f + r * ROW_FIELDS
    parts += slot * n_chunks * PART
    part = parts + chunk * PART
    list_z += slot * LIST
    list_ids += slot * LIST
    x = adjusted_logits(logits, z, row, r, slot, logits_stride, z_stride)
    ids, x = chunk_of(x, chunk, vocab_size, CHUNK)
    maximum = tl.load(state_f + slot * STATE + MAXIMUM).to(tl.float32)
    inverse_temperature = inverse(tl.load(row_f + TEMPERATURE))
    inside = is_within(x, ids, tl.load(state + CUT))
    w = tl.where(inside, weight(x, maximum, inverse_temperature), 0.0)
    tl.store(part + SUM, tl.sum(w, 0).to(tl.float64))
    last_bin = tl.load(state + LAST_BIN).to(tl.int32)
    chosen = (inside & (_bin_of(x, maximum, inverse_temperature) <= last_bin)).to(tl.int32)
    if tl.max(chosen, 0) > 0:
        place = tl.load(part + PLACE).to(tl.int32) + tl.cumsum(chosen, 0) - chosen
        tl.store(list_z + place, x, mask=chosen > 0)
        tl.store(list_ids + place, ids, mask=chosen > 0)
