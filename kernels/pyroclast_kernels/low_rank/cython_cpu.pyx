# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""low_rank in Cython: out[t] += scales[a] (x[t] A^T) B^T for the tokens t that have an adapter a.

See reference.py for the contract, cpp.cpp for how the work is shared: items are 128 rows of a
token's result, and ranks go in runs of 64.
"""

from libc.math cimport fmaf
from libc.stdint cimport int32_t, int64_t

from pyroclast_kernels.activation.cython.lanes cimport sum_lanes
from pyroclast_kernels.native.abi cimport Range, split

cdef enum:
    LANES = 16
    ROWS = 128  # of an item
    RANKS = 64  # that are computed at a time


cdef struct LowRankArgs:
    const int64_t *n_tokens
    const int64_t *n_adapted
    const int32_t *adapter_of_token
    const float *x
    const float *lora_a
    const float *lora_b
    const int32_t *ranks
    const float *scales
    float *out
    int64_t n_rows
    int64_t n_cols
    int64_t max_rank
    int64_t out_stride


cdef inline float dot(const float *a, const float *b, int64_t n) noexcept nogil:
    """The sum of a[i] * b[i] in 16 lanes, folded by one fixed tree."""
    cdef float lanes[LANES]
    cdef int64_t i = 0, lane
    for lane in range(LANES):
        lanes[lane] = 0
    while i + LANES <= n:
        for lane in range(LANES):
            lanes[lane] = fmaf(a[i + lane], b[i + lane], lanes[lane])
        i += LANES
    for lane in range(n - i):
        lanes[lane] = fmaf(a[i + lane], b[i + lane], lanes[lane])
    return sum_lanes(lanes)


cdef void add_rows(
    const LowRankArgs *a, int64_t token, int64_t adapter, int64_t first_row, int64_t end_row
) noexcept nogil:
    cdef int64_t rank = a.ranks[adapter], first = 0, n, r, row
    cdef const float *x = a.x + token * a.n_cols
    cdef const float *lora_a = a.lora_a + adapter * a.max_rank * a.n_cols
    cdef const float *lora_b = a.lora_b + adapter * a.n_rows * a.max_rank
    cdef float *out = a.out + token * a.out_stride
    cdef float projected[RANKS]
    while first < rank:
        n = min(<int64_t>RANKS, rank - first)
        for r in range(n):
            projected[r] = a.scales[adapter] * dot(x, lora_a + (first + r) * a.n_cols, a.n_cols)
        for row in range(first_row, end_row):
            out[row] += dot(lora_b + row * a.max_rank + first, projected, n)
        first += n


cdef void low_rank(const void *args, int part, int n_parts) noexcept nogil:
    cdef const LowRankArgs *a = <const LowRankArgs *>args
    if a.n_adapted[0] == 0:
        return
    cdef int64_t runs = (a.n_rows + ROWS - 1) // ROWS
    cdef Range mine = split(a.n_tokens[0] * runs, part, n_parts)
    cdef int64_t item = mine.begin, token, run, end, adapter
    while item < mine.end:
        token, run = item // runs, item % runs
        end = min(runs, run + mine.end - item)
        adapter = a.adapter_of_token[token]
        if adapter >= 0:
            add_rows(a, token, adapter, run * ROWS, min(end * ROWS, a.n_rows))
        item += end - run


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"low_rank.f32": <size_t>&low_rank}
