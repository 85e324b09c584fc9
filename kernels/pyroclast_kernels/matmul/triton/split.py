"""Split-K: the sum over k of one output tile, shared among programs and merged in one fixed order.

A tile's n_splits programs each sum their own run of columns and leave it in scratch memory; the one
that arrives last adds all of them up, in the order of the runs (Stream-K's fix-up: Osama et al.
2023, without its uneven runs).  How many runs there are depends on the weight's shape alone, so
that neither the tokens of a step nor who arrives when changes a bit.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

# Programs that fill an H200: two on each of its 132 multiprocessors.
_FULL = 264
MAX_SPLITS = 16


def n_splits(n_tiles: int, n_steps: int, least_steps: int = 4) -> int:
    """How many runs share the n_steps of each of n_tiles tiles: a power of two, such that all
    programs fit onto the device at once and none is left with fewer than least_steps."""
    splits = 1
    while (
        splits < MAX_SPLITS
        and n_tiles * splits * 2 <= _FULL
        and n_steps // (splits * 2) >= least_steps
    ):
        splits *= 2
    return splits


@triton.jit
def is_last(counter, n_splits):
    """Whether this program is the last of n_splits to get here; what each stored before can then be
    read.  Puts the counter back to zero."""
    tl.debug_barrier()  # every thread's stores come before the one thread's atomic
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == n_splits - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def sum_of_splits(partials, offsets, mask, stride, n_splits: tl.constexpr):
    """Runs 0, 1, 2, ... of a tile added up in that order, float32; run i lies i * stride elements
    on.  Read past the L1 cache, which other multiprocessors do not write."""
    total = tl.load(partials + offsets, mask=mask, other=0.0, cache_modifier=".cg")
    for i in range(1, n_splits):
        part = partials + i * stride
        total += tl.load(part + offsets, mask=mask, other=0.0, cache_modifier=".cg")
    return total
