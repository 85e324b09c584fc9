# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""norm in Cython: RMS or layer norm of each token's row, float32 or quantized.

See reference.py for the contract.  One token per item.  Sums run in 16 lanes, folded by one fixed
tree.
"""

from libc.stdint cimport int32_t, int64_t

from pyroclast_kernels.activation.cython.lanes cimport quantize_row
from pyroclast_kernels.native.abi cimport Q8Block, Range, split
from pyroclast_kernels.norm.cython_rows cimport RowNorm, norm_of_row, normed

cdef enum:
    RUN = 512  # columns that are quantized while they are in the L1 cache


cdef struct NormArgs:
    const int64_t *n_tokens
    const int32_t *rows
    const float *x
    const float *weight
    const float *bias
    float *out
    Q8Block *out_q8
    int64_t d_model
    double eps
    int64_t kind


cdef void norm_row(const NormArgs *a, const float *x, int64_t t) noexcept nogil:
    cdef float y[RUN]
    cdef RowNorm row = norm_of_row(x, a.d_model, <float>a.eps, a.kind)
    cdef const float *bias
    cdef float *out
    cdef int64_t i = 0, n, first
    while i < a.d_model:
        n, first = min(<int64_t>RUN, a.d_model - i), t * a.d_model + i
        out = <float *>y if a.out == NULL else a.out + first
        bias = a.bias if a.bias == NULL else a.bias + i
        normed(row, x + i, a.weight + i, bias, n, out)
        if a.out_q8 != NULL:
            quantize_row(out, n, a.out_q8 + first // 32)
        i += n


cdef void norm(const void *args, int part, int n_parts) noexcept nogil:
    cdef const NormArgs *a = <const NormArgs *>args
    cdef Range mine = split(a.n_tokens[0], part, n_parts)
    cdef int64_t t, row
    for t in range(mine.begin, mine.end):
        row = t if a.rows == NULL else a.rows[t]
        norm_row(a, a.x + row * a.d_model, t)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"norm.f32": <size_t>&norm}
