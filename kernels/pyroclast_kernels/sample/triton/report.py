"""What is reported of a row's own logits, in Triton: log-probability, rank, the likeliest tokens.

A program per row and chunk counts the logits above the chosen token's and takes out its chunk's
n_top best, one after the other; the last one of a row does the same with what they found.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.split import is_last
from pyroclast_kernels.sample.triton.list import chunk_of
from pyroclast_kernels.sample.triton.memory import (
    CHUNK,
    IS_GREEDY,
    LOG_TOTAL,
    LOGPROB,
    N_TOP,
    OUT_FIELDS,
    PART,
    RANK,
    RAW_BEST,
    RAW_MAXIMUM,
    ROW_FIELDS,
    STATE,
    STATUS,
    SUM,
    TOKEN_ID,
    WANT_LOGPROB,
)
from pyroclast_kernels.sample.triton.order import NOWHERE, id_at, place_of, value_at
from pyroclast_kernels.sample.triton.survey import OK

_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _store_best(places, n_top, top):
    """The n_top highest places, one after the other; NOWHERE where there are fewer."""
    i = 0
    while i < n_top:
        best = tl.max(places, 0)
        tl.store(top + i, best)
        places = tl.where(places == best, NOWHERE, places)
        i += 1


@triton.jit
def _log_probability(x, state_f):
    """float32 log-softmax of a float32 logit of the row."""
    below = x.to(tl.float64) - tl.load(state_f + RAW_MAXIMUM)
    return (below - tl.load(state_f + LOG_TOTAL)).to(tl.float32)


@triton.jit
def _store_top(places, n_top, state_f, top_ids, top_logprobs):
    i = 0
    while i < n_top:
        best = tl.max(places, 0)
        found = best > NOWHERE
        id = tl.where(found, id_at(best), -1)
        x = tl.where(found, value_at(best), 0.0)
        logprob = tl.where(found, _log_probability(x, state_f), -_INFINITY)
        tl.store(top_ids + i, id.to(tl.int32))
        tl.store(top_logprobs + i, logprob)
        places = tl.where(places == best, NOWHERE, places)
        i += 1


@triton.jit
def _finish(
    logits, parts, top, state_f, row, out, out_f, top_ids, top_logprobs, n_chunks, max_top,
    n_lanes: tl.constexpr, top_lanes: tl.constexpr,
):  # fmt: skip
    """What the last program of a row finds."""
    chunk = tl.arange(0, n_lanes)
    if tl.load(row + WANT_LOGPROB) != 0:
        token = tl.load(out + TOKEN_ID)
        there, part = chunk < n_chunks, parts + chunk * PART
        greater = tl.load(part + SUM, mask=there, other=0.0, cache_modifier=".cg")
        tl.store(out + RANK, 1 + tl.sum(greater, 0).to(tl.int32))
        best = tl.load(state_f + RAW_BEST)
        tl.store(out + IS_GREEDY, (token.to(tl.float64) == best).to(tl.int32))
        tl.store(out_f + LOGPROB, _log_probability(tl.load(logits + token), state_f))
    n_top = tl.load(row + N_TOP).to(tl.int32)
    if n_top > 0:
        i = tl.arange(0, top_lanes)
        there = (chunk < n_chunks)[:, None] & (i < n_top)[None, :]
        at = chunk[:, None] * max_top + i[None, :]
        places = tl.load(top + at, mask=there, other=NOWHERE, cache_modifier=".cg")
        places = tl.reshape(places, (n_lanes * top_lanes,))
        _store_top(places, n_top, state_f, top_ids, top_logprobs)


@triton.jit(do_not_specialize=["first_row", "n_chunks", "max_top"])
def report(
    logits, n_rows, rows, out, out_f, top_ids, top_logprobs, parts, state_f, top, counters,
    first_row, vocab_size, logits_stride, n_chunks, max_top, n_lanes: tl.constexpr,
    top_lanes: tl.constexpr,
):  # fmt: skip
    """Grid (rows from first_row on, n_chunks)."""
    slot, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r = first_row + slot
    if r >= tl.load(n_rows):
        return
    row = rows + r * ROW_FIELDS
    n_top = tl.load(row + N_TOP).to(tl.int32)
    out += r * OUT_FIELDS
    wanted = (tl.load(row + WANT_LOGPROB) != 0) | (n_top > 0)
    if (tl.load(out + STATUS) != OK) | (not wanted):
        return
    parts += slot * n_chunks * PART
    top += slot * n_chunks * max_top
    logits += r * logits_stride
    ids, x = chunk_of(logits, chunk, vocab_size, CHUNK)
    chosen = tl.load(logits + tl.load(out + TOKEN_ID))
    greater = tl.sum((x > chosen).to(tl.int32), 0)
    tl.store(parts + chunk * PART + SUM, greater.to(tl.float64))
    if n_top > 0:
        places = tl.where(x > -_INFINITY, place_of(x, ids), NOWHERE)
        _store_best(places, n_top, top + chunk * max_top)
    if is_last(counters + slot, n_chunks):
        state_f += slot * STATE
        out_f += r * OUT_FIELDS
        top_ids += r * max_top
        top_logprobs += r * max_top
        _finish(
            logits, parts, top, state_f, row, out, out_f, top_ids, top_logprobs, n_chunks, max_top,
            n_lanes, top_lanes,
        )  # fmt: skip
