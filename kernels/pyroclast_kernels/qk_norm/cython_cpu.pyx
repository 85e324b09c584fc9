# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""qk_norm in Cython: RMS norm of the query, key and value heads in qkv, in place.

See reference.py for the contract.  One token per item.
"""

from libc.stdint cimport int64_t

from pyroclast_kernels.native.abi cimport Range, split
from pyroclast_kernels.norm.cython_rows cimport RMS_NORM, RowNorm, norm_of_row, normed


cdef struct QkNormArgs:
    const int64_t *n_tokens
    float *qkv
    const float *q_weight
    const float *k_weight
    const float *v_weight
    int64_t n_heads
    int64_t n_kv_heads
    int64_t head_dim
    double eps
    int64_t whole


cdef void norm_in_place(
    float *x, int64_t n_columns, int64_t width, const float *weight, float eps
) noexcept nogil:
    """n_columns, `width` of them at a time, all with the same weight."""
    cdef int64_t first = 0
    cdef RowNorm row
    while first < n_columns:
        row = norm_of_row(x + first, width, eps, RMS_NORM)
        normed(row, x + first, weight, NULL, width, x + first)
        first += width


cdef void qk_norm(const void *args, int part, int n_parts) noexcept nogil:
    cdef const QkNormArgs *a = <const QkNormArgs *>args
    cdef Range mine = split(a.n_tokens[0], part, n_parts)
    cdef int64_t q_dim = a.n_heads * a.head_dim, k_dim = a.n_kv_heads * a.head_dim, t
    cdef float *q
    for t in range(mine.begin, mine.end):
        q = a.qkv + t * (q_dim + 2 * k_dim)
        norm_in_place(q, q_dim, q_dim if a.whole else a.head_dim, a.q_weight, <float>a.eps)
        norm_in_place(q + q_dim, k_dim, k_dim if a.whole else a.head_dim, a.k_weight, <float>a.eps)
        if a.v_weight is not NULL:
            norm_in_place(q + q_dim + k_dim, k_dim, a.head_dim, a.v_weight, <float>a.eps)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"qk_norm.f32": <size_t>&qk_norm}
