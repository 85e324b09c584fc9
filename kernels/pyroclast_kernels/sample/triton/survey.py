"""The first pass over every row, in Triton: it adjusts, checks and sums, and often draws.

A program per row and chunk adjusts its logits and leaves their maximum and their sums; the last
one of a row knows from these its status, its maximum logit and what has to follow.  The rows that
nothing cuts are done here: each chunk's weights are about its own maximum logit, which takes one
factor per chunk to set right, so that no second pass is needed.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.split import is_last
from pyroclast_kernels.sample import MIN_TEMPERATURE as _MIN_TEMPERATURE
from pyroclast_kernels.sample import NOT_FINITE as _NOT_FINITE
from pyroclast_kernels.sample import NOTHING_ALLOWED as _NOTHING_ALLOWED
from pyroclast_kernels.sample import OK as _OK
from pyroclast_kernels.sample.triton.adjust import adjusted
from pyroclast_kernels.sample.triton.memory import (
    ALLOWED_START,
    BAD,
    CHUNK,
    CUT,
    DONE,
    FIRST,
    IS_GREEDY,
    LOG_TOTAL,
    LOGPROB,
    MAXIMUM,
    MEAN,
    MIN_P,
    MOST,
    N_BIASES,
    N_KEPT,
    N_LISTED,
    N_PENALTIES,
    N_TOP,
    NEAR_CUT,
    OUT_FIELDS,
    PART,
    RANK,
    RAW_BEST,
    RAW_FIRST,
    RAW_MAXIMUM,
    RAW_MOST,
    RAW_SUM,
    ROW_FIELDS,
    SQUARES,
    STAGE,
    STATE,
    STATUS,
    SUM,
    TARGET,
    TEMPERATURE,
    TO_COUNT,
    TO_DRAW,
    TO_SELECT,
    TOKEN_ID,
    TOP_K,
    TOP_N_SIGMA,
    TOP_P,
    TYPICAL_P,
    WANT_LOGPROB,
    N,
)
from pyroclast_kernels.sample.triton.order import (
    NOWHERE,
    first_beyond,
    inverse,
    last_place,
    uniform,
    weight,
)

MIN_TEMPERATURE = tl.constexpr(_MIN_TEMPERATURE)
OK, NOT_FINITE = tl.constexpr(_OK), tl.constexpr(_NOT_FINITE)
NOTHING_ALLOWED = tl.constexpr(_NOTHING_ALLOWED)
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def is_adjusted(row):
    """Whether the row's stages 2 to 4 do anything: then its logits are those in z."""
    listed = tl.load(row + N_BIASES) + tl.load(row + N_PENALTIES)
    masked = tl.load(row + ALLOWED_START) >= 0
    return ((listed > 0) | masked) & (tl.load(row + TARGET) < 0)


@triton.jit
def _finite_base(most):
    """The maximum logit of a chunk, to subtract from all; 0 where all are -inf."""
    return tl.where(most > -_INFINITY, most, 0.0)


@triton.jit
def _store_spread(x, part):
    """How many finite logits a chunk has, their mean and the squares around it, in float64."""
    finite = x > -_INFINITY
    n = tl.sum(finite.to(tl.float64), 0)
    x = tl.where(finite, x, 0.0).to(tl.float64)
    mean = tl.sum(x, 0) / tl.maximum(n, 1.0)
    off = tl.where(finite, x - mean, 0.0)
    tl.store(part + N, n)
    tl.store(part + MEAN, mean)
    tl.store(part + SQUARES, tl.sum(off * off, 0))


@triton.jit
def _deviation(part, there):
    """The population standard deviation of a row's finite logits."""
    n = tl.load(part + N, mask=there, other=0.0, cache_modifier=".cg")
    mean = tl.load(part + MEAN, mask=there, other=0.0, cache_modifier=".cg")
    squares = tl.load(part + SQUARES, mask=there, other=0.0, cache_modifier=".cg")
    total = tl.sum(n, 0)
    off = mean - tl.sum(n * mean, 0) / total
    return tl.sqrt(tl.sum(squares + n * off * off, 0) / total)


@triton.jit
def _lowest(part, there, maximum, row_f):
    """The logit, float64, below which top_n_sigma or min_p cuts."""
    lowest = maximum - _INFINITY
    sigma, min_p = tl.load(row_f + TOP_N_SIGMA), tl.load(row_f + MIN_P)
    if sigma > 0.0:
        lowest = maximum - sigma * _deviation(part, there)
    if min_p > 0.0:
        bound = maximum + tl.load(row_f + TEMPERATURE) * tl.log(min_p)
        lowest = tl.maximum(lowest, bound)
    return lowest


@triton.jit
def _needs(row, row_f, vocab_size):
    """The stage that follows in a row that is neither greedy nor scored."""
    top_k = tl.load(row + TOP_K)
    threshold = (tl.load(row_f + TOP_N_SIGMA) > 0.0) | (tl.load(row_f + MIN_P) > 0.0)
    ordered = ((top_k > 0) & (top_k < vocab_size)) | (tl.load(row_f + TOP_P) < 1.0)
    stage = tl.where(ordered, TO_COUNT, tl.where(threshold, TO_DRAW, DONE))
    return tl.where(tl.load(row_f + TYPICAL_P) < 1.0, TO_SELECT, stage)


@triton.jit
def _drawn(x, part, there, maximum, row, row_f, vocab_size, n_lanes: tl.constexpr):
    """(token id, how many there were) of a row that nothing cuts; x points to its logits."""
    chunk = tl.arange(0, n_lanes)
    inverse_temperature = inverse(tl.load(row_f + TEMPERATURE))
    most = tl.load(part + MOST, mask=there, other=-_INFINITY, cache_modifier=".cg")
    sums = tl.load(part + SUM, mask=there, other=0.0, cache_modifier=".cg")
    n = tl.load(part + N, mask=there, other=0.0, cache_modifier=".cg")
    factor = tl.exp((most - maximum) * inverse_temperature.to(tl.float64))
    sums = sums * factor
    t = uniform(row) * tl.sum(sums, 0)
    chosen, before = first_beyond(sums, t, n_lanes)
    base = tl.sum(tl.where(chunk == chosen, most, 0.0), 0).to(tl.float32)
    t = (t - before) / tl.sum(tl.where(chunk == chosen, factor, 0.0), 0)
    ids = chosen * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(x + ids, mask=ids < vocab_size, other=-_INFINITY, cache_modifier=".cg")
    w = weight(x, base, inverse_temperature)
    index, _ = first_beyond(w.to(tl.float64), t, CHUNK)
    return chosen * CHUNK + index, tl.sum(n, 0).to(tl.int32)


@triton.jit
def _settle(
    x, parts, row, row_f, state, state_f, out, out_f, vocab_size, n_chunks, n_lanes: tl.constexpr
):
    """What the last program of a row finds: its status, and a token or the stage to follow."""
    chunk = tl.arange(0, n_lanes)
    there, part = chunk < n_chunks, parts + chunk * PART
    bad = tl.max(tl.load(part + BAD, mask=there, other=0.0, cache_modifier=".cg"), 0)
    raw = tl.load(part + RAW_MOST, mask=there, other=-_INFINITY, cache_modifier=".cg")
    most = tl.load(part + MOST, mask=there, other=-_INFINITY, cache_modifier=".cg")
    raw_maximum, maximum = tl.max(raw, 0), tl.max(most, 0)
    target = tl.load(row + TARGET)
    nothing = (raw_maximum == -_INFINITY) | ((target < 0) & (maximum == -_INFINITY))
    status = tl.where(bad > 0.0, NOT_FINITE, tl.where(nothing, NOTHING_ALLOWED, OK))
    token, n_kept, stage = 0 * target - 1, 0 * status, 0 * status + DONE
    if status == OK:
        if target >= 0:
            token = target
        elif tl.load(row_f + TEMPERATURE) < MIN_TEMPERATURE:
            first = tl.load(part + FIRST, mask=there, other=0.0, cache_modifier=".cg")
            first = tl.min(tl.where(most == maximum, first, _INFINITY), 0)
            token, n_kept = first.to(tl.int64), n_kept + 1
        else:
            stage = _needs(row, row_f, vocab_size)
            if stage == DONE:
                id, n = _drawn(x, part, there, maximum, row, row_f, vocab_size, n_lanes)
                token, n_kept = id.to(tl.int64), n
            else:
                lowest = _lowest(part, there, maximum, row_f)
                tl.store(state + CUT, last_place(lowest))
                tl.store(state + NEAR_CUT, NOWHERE)
                tl.store(state + N_LISTED, 0)
                tl.store(state_f + MAXIMUM, maximum)
        if (tl.load(row + WANT_LOGPROB) != 0) | (tl.load(row + N_TOP) > 0):
            first = tl.load(part + RAW_FIRST, mask=there, other=0.0, cache_modifier=".cg")
            sums = tl.load(part + RAW_SUM, mask=there, other=0.0, cache_modifier=".cg")
            tl.store(state_f + RAW_MAXIMUM, raw_maximum)
            best = tl.min(tl.where(raw == raw_maximum, first, _INFINITY), 0)
            tl.store(state_f + RAW_BEST, best)
            tl.store(state_f + LOG_TOTAL, tl.log(tl.sum(sums * tl.exp(raw - raw_maximum), 0)))
    tl.store(state + STAGE, stage.to(tl.int64))
    tl.store(out + TOKEN_ID, token.to(tl.int32))
    tl.store(out + STATUS, status)
    tl.store(out + N_KEPT, n_kept)
    tl.store(out + RANK, 0)
    tl.store(out + IS_GREEDY, 0)
    tl.store(out_f + LOGPROB, float("nan"))


@triton.jit(do_not_specialize=["first_row", "n_chunks"])
def survey(
    logits, n_rows, rows, rows_f, penalties, biases, allowed, out, out_f, parts, state, state_f, z,
    counters, first_row, vocab_size, logits_stride, z_stride, n_chunks, n_lanes: tl.constexpr,
):  # fmt: skip
    """Grid (rows from first_row on, n_chunks)."""
    slot, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r = first_row + slot
    if r >= tl.load(n_rows):
        return
    row, row_f = rows + r * ROW_FIELDS, rows_f + r * ROW_FIELDS
    begin = chunk * CHUNK
    ids = begin + tl.arange(0, CHUNK)
    there = ids < vocab_size
    x = logits + r * logits_stride
    loaded = tl.load(x + ids, mask=there, other=-_INFINITY)
    bad = ~(loaded < _INFINITY)
    values = tl.where(bad, -_INFINITY, loaded) + 0.0
    parts += slot * n_chunks * PART
    part = parts + chunk * PART
    tl.store(part + BAD, tl.max(bad.to(tl.int32), 0).to(tl.float64))
    most, first = tl.max(values, 0, return_indices=True)
    tl.store(part + RAW_MOST, most.to(tl.float64))
    if (tl.load(row + WANT_LOGPROB) != 0) | (tl.load(row + N_TOP) > 0):
        tl.store(part + RAW_FIRST, (begin + first).to(tl.float64))
        raw_sum = tl.sum(weight(values, _finite_base(most), 1.0), 0)
        tl.store(part + RAW_SUM, raw_sum.to(tl.float64))
    if is_adjusted(row):
        x = z + slot * z_stride
        values = adjusted(
            values, ids, there, x, penalties, biases, allowed, row, row_f, begin
        )  # fmt: skip
        most, first = tl.max(values, 0, return_indices=True)
    tl.store(part + MOST, most.to(tl.float64))
    tl.store(part + FIRST, (begin + first).to(tl.float64))
    temperature = tl.load(row_f + TEMPERATURE)
    if temperature >= MIN_TEMPERATURE:
        w = weight(values, _finite_base(most), inverse(temperature))
        tl.store(part + SUM, tl.sum(w, 0).to(tl.float64))
        tl.store(part + N, tl.sum((values > -_INFINITY).to(tl.int32), 0).to(tl.float64))
        if tl.load(row_f + TOP_N_SIGMA) > 0.0:
            _store_spread(values, part)
    if is_last(counters + slot, n_chunks):
        out += r * OUT_FIELDS
        out_f += r * OUT_FIELDS
        state += slot * STATE
        state_f += slot * STATE
        _settle(x, parts, row, row_f, state, state_f, out, out_f, vocab_size, n_chunks, n_lanes)
