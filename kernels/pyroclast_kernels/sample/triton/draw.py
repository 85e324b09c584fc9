"""The draw among all tokens that a row's cuts keep, in Triton.

A program per row and chunk sums the weights of its kept tokens; the last one of a row picks the
chunk in which the random number falls, and goes through that one again.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.matmul.triton.split import is_last
from pyroclast_kernels.sample.triton.list import adjusted_logits, chunk_of
from pyroclast_kernels.sample.triton.memory import (
    CENTRE,
    CHUNK,
    CUT,
    DONE,
    MAXIMUM,
    N_KEPT,
    NEAR_CUT,
    OUT_FIELDS,
    PART,
    ROW_FIELDS,
    STAGE,
    STATE,
    SUM,
    TEMPERATURE,
    TO_DRAW,
    TOKEN_ID,
    N,
)
from pyroclast_kernels.sample.triton.order import (
    NOWHERE,
    first_beyond,
    inverse,
    is_within,
    uniform,
    weight,
)
from pyroclast_kernels.sample.triton.select import nearness


@triton.jit
def _kept_weights(x, chunk, vocab_size, state, state_f, inverse_temperature):
    """(which tokens of a chunk are kept, their float32 weights, 0 for others)."""
    ids, values = chunk_of(x, chunk, vocab_size, CHUNK)
    kept = is_within(values, ids, tl.load(state + CUT))
    near_cut = tl.load(state + NEAR_CUT)
    if near_cut > NOWHERE:
        kept = kept & is_within(nearness(values, tl.load(state_f + CENTRE)), ids, near_cut)
    maximum = tl.load(state_f + MAXIMUM).to(tl.float32)
    return kept, tl.where(kept, weight(values, maximum, inverse_temperature), 0.0)


@triton.jit(do_not_specialize=["first_row", "n_chunks"])
def draw(
    logits, n_rows, rows, rows_f, out, parts, state, state_f, z, counters, first_row, vocab_size,
    logits_stride, z_stride, n_chunks, n_lanes: tl.constexpr,
):  # fmt: skip
    """Grid (rows from first_row on, n_chunks)."""
    slot, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r = first_row + slot
    if r >= tl.load(n_rows):
        return
    state += slot * STATE
    state_f += slot * STATE
    if tl.load(state + STAGE) != TO_DRAW:
        return
    row = rows + r * ROW_FIELDS
    parts += slot * n_chunks * PART
    part = parts + chunk * PART
    x = adjusted_logits(logits, z, row, r, slot, logits_stride, z_stride)
    by = inverse(tl.load(rows_f + r * ROW_FIELDS + TEMPERATURE))
    kept, w = _kept_weights(x, chunk, vocab_size, state, state_f, by)
    tl.store(part + SUM, tl.sum(w, 0).to(tl.float64))
    tl.store(part + N, tl.sum(kept.to(tl.int32), 0).to(tl.float64))
    if is_last(counters + slot, n_chunks):
        chunks = tl.arange(0, n_lanes)
        there, all_parts = chunks < n_chunks, parts + chunks * PART
        sums = tl.load(all_parts + SUM, mask=there, other=0.0, cache_modifier=".cg")
        n_kept = tl.sum(tl.load(all_parts + N, mask=there, other=0.0, cache_modifier=".cg"), 0)
        t = uniform(row) * tl.sum(sums, 0)
        chosen, before = first_beyond(sums, t, n_lanes)
        _, chosen_w = _kept_weights(x, chosen, vocab_size, state, state_f, by)
        index, _ = first_beyond(chosen_w.to(tl.float64), t - before, CHUNK)
        tl.store(out + r * OUT_FIELDS + TOKEN_ID, chosen * CHUNK + index)
        tl.store(out + r * OUT_FIELDS + N_KEPT, n_kept.to(tl.int32))
        tl.store(state + STAGE, DONE)
