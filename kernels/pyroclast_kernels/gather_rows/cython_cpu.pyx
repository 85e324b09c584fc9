# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""gather_rows in Cython: out[i] = x[rows[i]], a row per item."""

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy

from pyroclast_kernels.native.abi cimport Range, split


cdef struct GatherRowsArgs:
    const int64_t *n_tokens
    const int32_t *rows
    const float *x
    float *out
    int64_t n_cols


cdef void gather_rows(const void *args, int part, int n_parts) noexcept nogil:
    cdef const GatherRowsArgs *a = <const GatherRowsArgs *>args
    cdef Range mine = split(a.n_tokens[0], part, n_parts)
    cdef int64_t i
    for i in range(mine.begin, mine.end):
        memcpy(a.out + i * a.n_cols, a.x + a.rows[i] * a.n_cols, a.n_cols * sizeof(float))


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"gather_rows.f32": <size_t>&gather_rows}
