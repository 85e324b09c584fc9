"""Biases, penalties and the mask of a chunk of logits, in Triton: stages 2 to 4.

A program owns its chunk and goes through the row's lists for the tokens in it.  Many entries are
taken at once; should several be of one token, they go one after the other in the list's order: each
round, the first one left of every token.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.sample.triton.memory import (
    ALLOWED_START,
    BIAS_START,
    CHUNK,
    FREQUENCY,
    N_BIASES,
    N_PENALTIES,
    PENALTY_START,
    PRESENCE,
    REPETITION,
)

_ENTRIES = tl.constexpr(1024)  # of a list at once
_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)
_LATER = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _clipped(x):
    """float64 -> float32, its largest values instead of infinities; -inf stays."""
    clipped = tl.minimum(tl.maximum(x, -_FLOAT_MAX), _FLOAT_MAX)
    return tl.where(x == float("-inf"), x, clipped).to(tl.float32)


@triton.jit
def _is_first(z, token, index, pending):
    """Which pending entries are the first of their tokens.  z is overwritten there: whoever is
    first must store its value."""
    z_bits = z.to(tl.pointer_type(tl.int32))
    tl.debug_barrier()
    tl.store(z_bits + token, _LATER, mask=pending)
    tl.debug_barrier()
    tl.atomic_min(z_bits + token, index, mask=pending, sem="relaxed", scope="cta")
    tl.debug_barrier()
    first = tl.load(z_bits + token, mask=pending, other=-1, cache_modifier=".cg")
    tl.debug_barrier()
    return pending & (first == index)


@triton.jit
def _add_biases(z, biases, row, begin):
    """z: the row's adjusted logits; biases int32 pairs, of which the second is a float32."""
    start, n = tl.load(row + BIAS_START), tl.load(row + N_BIASES)
    biases += 2 * start
    i = 0
    while i < n:  # NumPy 2.4 lets no range in the interpreter count to what was loaded
        index = (i + tl.arange(0, _ENTRIES)).to(tl.int32)
        token = tl.load(biases + 2 * index, mask=index < n, other=-1)
        pending = (token >= begin) & (token < begin + CHUNK)
        bias = tl.load(biases + 2 * index + 1, mask=pending, other=0).to(tl.float32, bitcast=True)
        while tl.max(pending.to(tl.int32), 0) > 0:
            x = tl.load(z + token, mask=pending, other=0.0, cache_modifier=".cg").to(tl.float64)
            first = _is_first(z, token, index, pending)
            tl.store(z + token, _clipped(x + bias.to(tl.float64)), mask=first)
            tl.debug_barrier()
            pending = pending & ~first
        i += _ENTRIES


@triton.jit
def _apply_penalties(z, penalties, row, row_f, begin):
    """z: the row's adjusted logits; penalties int32 triples."""
    start, n = tl.load(row + PENALTY_START), tl.load(row + N_PENALTIES)
    repetition = tl.load(row_f + REPETITION)
    frequency, presence = tl.load(row_f + FREQUENCY), tl.load(row_f + PRESENCE)
    penalties += 3 * start
    i = 0
    while i < n:
        index = (i + tl.arange(0, _ENTRIES)).to(tl.int32)
        token = tl.load(penalties + 3 * index, mask=index < n, other=-1)
        pending = (token >= begin) & (token < begin + CHUNK)
        n_prompt = tl.load(penalties + 3 * index + 1, mask=pending, other=0)
        n_output = tl.load(penalties + 3 * index + 2, mask=pending, other=0)
        occurs = (n_prompt > 0) | (n_output > 0)
        while tl.max(pending.to(tl.int32), 0) > 0:
            x = tl.load(z + token, mask=pending, other=0.0, cache_modifier=".cg").to(tl.float64)
            first = _is_first(z, token, index, pending)
            x = tl.where(occurs, tl.where(x > 0.0, x / repetition, x * repetition), x)
            x = x - frequency * n_output.to(tl.float64)
            x = tl.where(n_output > 0, x - presence, x)
            tl.store(z + token, _clipped(x), mask=first)
            tl.debug_barrier()
            pending = pending & ~first
        i += _ENTRIES


@triton.jit
def adjusted(x, ids, there, z, penalties, biases, allowed, row, row_f, begin):
    """float32 (CHUNK,): the adjusted logits of the chunk from `begin` on, whose own are x; also
    left in the row's z."""
    tl.store(z + ids, x, mask=there)
    tl.debug_barrier()
    _add_biases(z, biases, row, begin)
    _apply_penalties(z, penalties, row, row_f, begin)
    x = tl.load(z + ids, mask=there, other=float("-inf"), cache_modifier=".cg")
    start = tl.load(row + ALLOWED_START)
    if start >= 0:
        words = tl.load(allowed + start + ids // 32, mask=there, other=0)
        x = tl.where(((words >> (ids % 32)) & 1) == 1, x, float("-inf"))
    tl.debug_barrier()
    tl.store(z + ids, x, mask=there)
    return x + 0.0
