# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""norm in Cython: out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight, float32 or quantized.

See reference.py for the contract.  One token per item.  The sum of squares runs in 16 lanes, folded
by one fixed tree.
"""

from libc.math cimport fmaf, sqrtf
from libc.stdint cimport int32_t, int64_t

from pyroclast_kernels.activation.cython.lanes cimport quantize_row, sum_lanes
from pyroclast_kernels.native.abi cimport Q8Block, Range, split

cdef enum:
    RUN = 512  # columns that are quantized while they are in the L1 cache


cdef struct NormArgs:
    const int64_t *n_tokens
    const int32_t *rows
    const float *x
    const float *weight
    float *out
    Q8Block *out_q8
    int64_t d_model
    double eps


cdef inline float sum_of_squares(const float *x, int64_t n) noexcept nogil:
    cdef float lanes[16]
    cdef int64_t whole = n // 16 * 16, i
    cdef int j
    for j in range(16):
        lanes[j] = 0
    for i in range(0, whole, 16):
        # Two loops: GCC would unroll and jam a single one, which keeps the sums in memory.
        for j in range(8):
            lanes[j] = fmaf(x[i + j], x[i + j], lanes[j])
        for j in range(8, 16):
            lanes[j] = fmaf(x[i + j], x[i + j], lanes[j])
    for j in range(n - whole):
        lanes[j] = fmaf(x[whole + j], x[whole + j], lanes[j])
    return sum_lanes(lanes)


cdef void norm_row(const NormArgs *a, const float *x, int64_t t) noexcept nogil:
    cdef float y[RUN]
    cdef float one = 1
    cdef float mean = sum_of_squares(x, a.d_model) / <float>a.d_model
    cdef float scale = one / sqrtf(mean + <float>a.eps)
    cdef const float *weight
    cdef float *out
    cdef int64_t i = 0, j, n, first
    while i < a.d_model:
        n, first = min(<int64_t>RUN, a.d_model - i), t * a.d_model + i
        weight, out = a.weight + i, <float *>y if a.out == NULL else a.out + first
        for j in range(n):
            out[j] = x[i + j] * scale * weight[j]
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
