# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# The norm of a row, which norm, residual and qk_norm share: what cpp/rows.h is to the C++ kernels.

from libc.math cimport fmaf, sqrtf
from libc.stdint cimport int64_t

from pyroclast_kernels.activation.cython.lanes cimport sum_lanes


cdef enum:
    RMS_NORM = 0
    LAYER_NORM = 1


cdef struct RowNorm:
    float mean  # mean and rest of layer norms; else 0, and x - 0 is x to the bit
    float rest
    float scale


cdef inline float mean_of(const float *x, int64_t n, float shift) noexcept nogil:
    """The mean of x - shift."""
    cdef float lanes[16]
    cdef int64_t whole = n // 16 * 16, i
    cdef int j
    for j in range(16):
        lanes[j] = 0
    for i in range(0, whole, 16):
        # Two loops: GCC would unroll and jam a single one, which keeps the sums in memory.
        for j in range(8):
            lanes[j] = lanes[j] + (x[i + j] - shift)
        for j in range(8, 16):
            lanes[j] = lanes[j] + (x[i + j] - shift)
    for j in range(n - whole):
        lanes[j] = lanes[j] + (x[whole + j] - shift)
    return sum_lanes(lanes) / <float>n


cdef inline float sum_of_squares(
    const float *x, int64_t n, float mean, float rest
) noexcept nogil:
    cdef float lanes[16]
    cdef float v
    cdef int64_t whole = n // 16 * 16, i
    cdef int j
    for j in range(16):
        lanes[j] = 0
    for i in range(0, whole, 16):
        for j in range(8):
            v = x[i + j] - mean - rest
            lanes[j] = fmaf(v, v, lanes[j])
        for j in range(8, 16):
            v = x[i + j] - mean - rest
            lanes[j] = fmaf(v, v, lanes[j])
    for j in range(n - whole):
        v = x[whole + j] - mean - rest
        lanes[j] = fmaf(v, v, lanes[j])
    return sum_lanes(lanes)


cdef inline RowNorm norm_of_row(const float *x, int64_t n, float eps, int64_t kind) noexcept nogil:
    cdef RowNorm row
    cdef float zero = 0, one = 1
    row.mean = row.rest = 0
    if kind == LAYER_NORM:
        row.mean = mean_of(x, n, zero)
        row.rest = mean_of(x, n, row.mean)
    row.scale = one / sqrtf(sum_of_squares(x, n, row.mean, row.rest) / <float>n + eps)
    return row


cdef inline void normed(
    RowNorm row, const float *x, const float *weight, const float *bias, int64_t n, float *out
) noexcept nogil:
    """n columns of the row's result; bias may be NULL, out may be x."""
    cdef int64_t i
    for i in range(n):
        out[i] = (x[i] - row.mean - row.rest) * row.scale * weight[i]
    if bias != NULL:
        for i in range(n):
            out[i] = out[i] + bias[i]
