"""One part's working memory for the Numba kernel, laid out as scratch_bytes in __init__.py says."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyroclast_kernels.numba.simd import at, inline
from pyroclast_kernels.sample.numba.lanes import BLOCK, STRIDE

BUCKETS = 1024
COPIES = 4  # of each bucket, in turn: adding to one address is latency-bound
MAX_SAMPLE = 4096
_FLOAT = 4


class Scratch(NamedTuple):
    """Pointers.  A whole vocabulary of floats and 64 more each, in this order: adjusted, logits,
    keys, ids (int32), values, weights, top_logits, top_ids (int32)."""

    adjusted: Any
    logits: Any
    keys: Any
    ids: Any
    values: Any  # values and weights are what a selection uses up
    weights: Any
    top_logits: Any  # top-p: a list besides `logits` and `ids`
    top_ids: Any
    groups: Any  # maxima of groups: see scan
    sample_values: Any  # MAX_SAMPLE + 64 floats, like the next
    sample_weights: Any
    block_weights: Any  # BLOCK + 64 floats
    histogram: Any  # float64 (BUCKETS, COPIES)
    block_sums: Any  # float64, one a block
    block_ties: Any  # int64: how many ties are left at the start of each block


@inline
def scratch_at(memory: Any, vocab_size: int) -> Any:
    padded = (vocab_size + 63) // 64 * 64 + 64
    row = _FLOAT * padded
    groups = 8 * row
    sample_values = groups + _FLOAT * (padded // STRIDE // 16 * 16 + 16)
    sample_weights = sample_values + _FLOAT * (MAX_SAMPLE + 64)
    block_weights = sample_weights + _FLOAT * (MAX_SAMPLE + 64)
    histogram = block_weights + _FLOAT * (BLOCK + 64)
    block_sums = histogram + 8 * BUCKETS * COPIES
    block_ties = block_sums + 8 * (padded // BLOCK + 1)
    return Scratch(
        memory,
        at(memory, row),
        at(memory, 2 * row),
        at(memory, 3 * row),
        at(memory, 4 * row),
        at(memory, 5 * row),
        at(memory, 6 * row),
        at(memory, 7 * row),
        at(memory, groups),
        at(memory, sample_values),
        at(memory, sample_weights),
        at(memory, block_weights),
        at(memory, histogram),
        at(memory, block_sums),
        at(memory, block_ties),
    )
