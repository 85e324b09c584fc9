"""sample in Numba: the stages of reference.py, every sum in the order of the C++ kernel.

A part handles whole rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.numba.masks import bits_at, blend, load_row
from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import (
    apart,
    at,
    inline,
    load_f32,
    load_f32x16,
    load_f64,
    load_i32,
    load_i64,
    load_pointer,
    outline,
    paste,
    splat,
    store_f32,
    store_f32x16,
    store_i32,
)
from pyroclast_kernels.sample import (
    BIAS,
    MIN_TEMPERATURE,
    NOT_FINITE,
    NOTHING_ALLOWED,
    OK,
    OUT,
    PENALTY,
    ROW,
)
from pyroclast_kernels.sample.numba.bracket import select_count
from pyroclast_kernels.sample.numba.cuts import bound_of_kth, cut_typical, threshold
from pyroclast_kernels.sample.numba.draw import draw, gather, keep, uniform
from pyroclast_kernels.sample.numba.lanes import (
    ALL_TIES,
    FLOAT_MAX,
    LEAST,
    Cut,
    count_above,
    first_equal,
    scan,
    sum_of_weights,
    weigher,
)
from pyroclast_kernels.sample.numba.memory import scratch_at
from pyroclast_kernels.sample.numba.report import report_top
from pyroclast_kernels.sample.numba.top_p import draw_top_p

# Byte offsets of the argument struct, and of the records it points to.
_LOGITS, _N_ROWS, _ROWS, _PENALTIES, _BIASES, _ALLOWED, _OUTS = range(0, 56, 8)
_TOP_IDS, _TOP_LOGPROBS, _SCRATCH = range(56, 80, 8)
_VOCAB_SIZE, _LOGITS_STRIDE, _MAX_TOP, _SCRATCH_STRIDE = range(80, 112, 8)


def _offsets(record: Any) -> list[int]:
    return [record.fields[name][1] for name in record.names]


(
    _TEMPERATURE, _TOP_P, _MIN_P, _TYPICAL_P, _TOP_N_SIGMA,
    _REPETITION, _PRESENCE, _FREQUENCY,
    _TOP_K, _SEED, _POSITION, _STREAM,
    _PENALTY_START, _N_PENALTIES, _BIAS_START, _N_BIASES, _ALLOWED_START,
    _N_TOP, _TARGET, _WANT_LOGPROB,
) = _offsets(ROW)  # fmt: skip
_TOKEN_ID, _STATUS, _N_KEPT, _RANK, _IS_GREEDY, _LOGPROB = _offsets(OUT)
_, _N_PROMPT, _N_OUTPUT = _offsets(PENALTY)
_ROW_BYTES, _OUT_BYTES = ROW.itemsize, OUT.itemsize
_PENALTY_BYTES, _BIAS_BYTES, _BIAS_VALUE = PENALTY.itemsize, BIAS.itemsize, _offsets(BIAS)[1]


# ---- stages 2 to 4 ------------------------------------------------------------------------------


@inline
def _clip(x: Any) -> Any:
    if x == -math.inf:
        return np.float32(x)
    return np.float32(min(max(x, np.float64(LEAST)), np.float64(FLOAT_MAX)))


@inline
def _add_biases(z: Any, args: Any, row: Any) -> None:
    biases = at(load_pointer(args, _BIASES), _BIAS_BYTES * load_i64(row, _BIAS_START))
    for i in range(load_i64(row, _N_BIASES)):
        bias = at(biases, _BIAS_BYTES * i)
        place = 4 * np.int64(load_i32(bias, 0))
        x = np.float64(load_f32(z, place)) + np.float64(load_f32(bias, _BIAS_VALUE))
        store_f32(z, place, _clip(x))


@inline
def _apply_penalties(z: Any, args: Any, row: Any) -> None:
    penalties = at(load_pointer(args, _PENALTIES), _PENALTY_BYTES * load_i64(row, _PENALTY_START))
    repetition = load_f64(row, _REPETITION)
    for i in range(load_i64(row, _N_PENALTIES)):
        penalty = at(penalties, _PENALTY_BYTES * i)
        place = 4 * np.int64(load_i32(penalty, 0))
        n_prompt, n_output = load_i32(penalty, _N_PROMPT), load_i32(penalty, _N_OUTPUT)
        x = np.float64(load_f32(z, place))
        if n_prompt > 0 or n_output > 0:
            x = x / repetition if x > 0.0 else x * repetition
        x -= load_f64(row, _FREQUENCY) * n_output
        if n_output > 0:
            x -= load_f64(row, _PRESENCE)
        store_f32(z, place, _clip(x))


@outline
def _adjust(z: Any, logits: Any, n: int, args: Any, row: Any) -> None:
    """Biases, penalties and the mask, on a copy, which is padded."""
    apart()
    for i in range(0, n, 16):
        store_f32x16(z, 4 * i, load_row(logits, i, n, splat(0.0)))
    _add_biases(z, args, row)
    _apply_penalties(z, args, row)
    start = load_i64(row, _ALLOWED_START)
    if start >= 0:
        allowed = at(load_pointer(args, _ALLOWED), 4 * start)
        for i in range(0, n, 16):
            x = blend(bits_at(allowed, i), load_f32x16(z, 4 * i), splat(-math.inf))
            store_f32x16(z, 4 * i, x)


# ---- stages 5 to 12 -----------------------------------------------------------------------------


@paste
def _draw(z: Any, n: int, by: Any, lowest: Any, row: Any, s: Any) -> Any:
    """Stages 11 and 12 among the logits that are at least `lowest`: (index, n_kept)."""
    u = uniform(load_i64(row, _SEED), load_i64(row, _POSITION), load_i64(row, _STREAM))
    top_p = load_f64(row, _TOP_P)
    if top_p < 1.0:
        return draw_top_p(z, n, by, lowest, top_p, u, s)
    return draw(z, n, by, Cut(lowest, ALL_TIES), u, s)


@outline
def _list(z: Any, n: int, by: Any, lowest: Any, row: Any, s: Any) -> Any:
    """What top_k and typical_p leave, as the list in s.ids and s.logits; how many there are."""
    apart()
    top_k = load_i64(row, _TOP_K)
    cuts_k = top_k > 0 and top_k < n
    if cuts_k:
        lowest = max(lowest, bound_of_kth(z, n, top_k, s))
    listed = gather(s.ids, s.logits, z, n, lowest)
    if cuts_k and listed > top_k:
        cut = select_count(s.logits, listed, top_k, s)
        listed = keep(s.ids, s.logits, listed, s.logits, cut)
    if load_f64(row, _TYPICAL_P) < 1.0:
        listed = cut_typical(listed, load_f64(row, _TYPICAL_P), by, s)
    return listed


@paste
def _choose(z: Any, n: int, maximum: Any, row: Any, s: Any) -> Any:
    """(token id, how many could be drawn), of adjusted logits one of which is finite."""
    temperature = load_f64(row, _TEMPERATURE)
    if temperature < MIN_TEMPERATURE:
        return first_equal(z, n, maximum), 1
    by = weigher(maximum, temperature)
    sigma, min_p = load_f64(row, _TOP_N_SIGMA), load_f64(row, _MIN_P)
    lowest = threshold(z, n, maximum, sigma, min_p, temperature)
    top_k, cuts_typical = load_i64(row, _TOP_K), load_f64(row, _TYPICAL_P) < 1.0
    if not (cuts_typical or (top_k > 0 and top_k < n)):
        return _draw(z, n, by, lowest, row, s)
    listed = _list(z, n, by, lowest, row, s)
    if cuts_typical:
        # The best logits may be gone: weigh by the best one left, so that not all weigh 0.
        best, _ = scan(s.logits, listed, s.groups, False)
        by = weigher(best, temperature)
    index, n_kept = _draw(s.logits, listed, by, LEAST, row, s)
    return np.int64(load_i32(s.ids, 4 * index)), n_kept


# ---- a row --------------------------------------------------------------------------------------


@paste
def _report(logits: Any, n: int, maximum: Any, args: Any, r: int, s: Any) -> None:
    """Log-probability and rank of the chosen token, and the likeliest tokens, of the raw logits."""
    row = at(load_pointer(args, _ROWS), _ROW_BYTES * r)
    out = at(load_pointer(args, _OUTS), _OUT_BYTES * r)
    n_top = load_i64(row, _N_TOP)
    log_total = math.log(sum_of_weights(logits, n, weigher(maximum, 1.0)))
    if load_i64(row, _WANT_LOGPROB) != 0:
        token_id = np.int64(load_i32(out, _TOKEN_ID))
        chosen = load_f32(logits, 4 * token_id)
        store_f32(out, _LOGPROB, np.float32(np.float64(chosen) - maximum - log_total))
        store_i32(out, _RANK, np.int32(1 + count_above(logits, n, chosen)))
        if chosen == maximum and first_equal(logits, n, maximum) == token_id:
            store_i32(out, _IS_GREEDY, np.int32(1))
    if n_top > 0:
        first = 4 * r * load_i64(args, _MAX_TOP)
        ids = at(load_pointer(args, _TOP_IDS), first)
        logprobs = at(load_pointer(args, _TOP_LOGPROBS), first)
        report_top(logits, n, n_top, np.float64(maximum), log_total, ids, logprobs, s)


@paste
def _choose_row(logits: Any, n: int, maximum: Any, args: Any, r: int, s: Any) -> Any:
    """Stages 2 to 12, or the given target: fills token_id and n_kept, returns the status."""
    row = at(load_pointer(args, _ROWS), _ROW_BYTES * r)
    out = at(load_pointer(args, _OUTS), _OUT_BYTES * r)
    if load_i64(row, _TARGET) >= 0:
        store_i32(out, _TOKEN_ID, np.int32(load_i64(row, _TARGET)))
        return OK
    z = logits
    if (
        load_i64(row, _N_BIASES) != 0
        or load_i64(row, _N_PENALTIES) != 0
        or load_i64(row, _ALLOWED_START) >= 0
    ):
        z = s.adjusted
        _adjust(z, logits, n, args, row)
        maximum, _ = scan(z, n, s.groups, True)
        if maximum == -math.inf:
            return NOTHING_ALLOWED
    token_id, n_kept = _choose(z, n, maximum, row, s)
    store_i32(out, _TOKEN_ID, np.int32(token_id))
    store_i32(out, _N_KEPT, np.int32(n_kept))
    return OK


@paste
def _sample_row(args: Any, r: int, s: Any) -> None:
    row = at(load_pointer(args, _ROWS), _ROW_BYTES * r)
    out = at(load_pointer(args, _OUTS), _OUT_BYTES * r)
    logits = at(load_pointer(args, _LOGITS), 4 * r * load_i64(args, _LOGITS_STRIDE))
    n = load_i64(args, _VOCAB_SIZE)
    store_i32(out, _TOKEN_ID, np.int32(-1))
    for field in (_N_KEPT, _RANK, _IS_GREEDY):
        store_i32(out, field, np.int32(0))
    store_f32(out, _LOGPROB, np.float32(math.nan))
    maximum, has_nan = scan(logits, n, s.groups, True)
    if has_nan or maximum == math.inf:
        store_i32(out, _STATUS, np.int32(NOT_FINITE))
        return
    if maximum == -math.inf:
        store_i32(out, _STATUS, np.int32(NOTHING_ALLOWED))
        return
    status = _choose_row(logits, n, maximum, args, r, s)
    store_i32(out, _STATUS, np.int32(status))
    if status == OK and (load_i64(row, _WANT_LOGPROB) != 0 or load_i64(row, _N_TOP) != 0):
        _report(logits, n, maximum, args, r, s)


def sample_f32(args: Any, part: int, n_parts: int) -> None:
    n_rows = load_i64(load_pointer(args, _N_ROWS), 0)
    memory = at(load_pointer(args, _SCRATCH), part * load_i64(args, _SCRATCH_STRIDE))
    s = scratch_at(memory, load_i64(args, _VOCAB_SIZE))
    for r in range(split_begin(n_rows, part, n_parts), split_begin(n_rows, part + 1, n_parts)):
        _sample_row(args, r, s)
