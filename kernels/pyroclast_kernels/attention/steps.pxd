# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# The inner loops of attention, one query row at a time: scores, exponentials, weighted values.
from libc.math cimport INFINITY, fmaf
from libc.stdint cimport int64_t

from pyroclast_kernels.activation.lanes cimport exp_lane, max_lanes, sum_lanes

cdef enum:
    MAX_HEAD_DIM = 256  # floats between two rows of values; model.py refuses larger heads
    STEP = 32  # positions whose keys or values are converted to float32 at a time


cdef inline void score_step(
    const float *q, const float *keys, int64_t head_dim, float scale, float *out
) noexcept nogil:
    """out (32,) = q . keys * scale."""
    cdef float lanes[32]
    cdef int64_t d
    cdef int i
    for i in range(32):
        lanes[i] = 0
    for d in range(head_dim):
        for i in range(16):
            lanes[i] = fmaf(keys[STEP * d + i], q[d], lanes[i])
            lanes[16 + i] = fmaf(keys[STEP * d + 16 + i], q[d], lanes[16 + i])
    for i in range(32):
        out[i] = lanes[i] * scale


cdef inline float exponentials(
    float *scores, int64_t lo, int64_t hi, int64_t padded, float *maximum
) noexcept nogil:
    """scores[lo:hi] become exp(score - maximum), the others up to `padded` (a multiple of 16) 0;
    returns their sum.  lo < hi."""
    cdef float minus_infinity = -INFINITY
    cdef float total[16]
    cdef float top[16]
    cdef int64_t i
    cdef int j
    for i in range(lo):
        scores[i] = minus_infinity
    for i in range(hi, padded):
        scores[i] = minus_infinity
    for j in range(16):
        top[j] = minus_infinity
        total[j] = 0
    for i in range(0, padded, 16):
        for j in range(16):
            top[j] = scores[i + j] if scores[i + j] > top[j] else top[j]
    cdef float largest = max_lanes(top)
    for i in range(padded):
        scores[i] = exp_lane(scores[i] - largest)
    for i in range(0, padded, 16):
        for j in range(16):
            total[j] += scores[i + j]
    maximum[0] = largest
    return sum_lanes(total)


cdef inline void add_values(
    const float *probs, const float *values, int64_t n, int64_t width, float *out
) noexcept nogil:
    """out (width,) += sum over n positions of probs * values; width is a multiple of 16."""
    cdef float lanes[64]
    cdef float p
    cdef int64_t d = 0, i
    cdef const float *v
    cdef int j
    while d + 64 <= width:
        for j in range(64):
            lanes[j] = 0
        for i in range(n):
            p, v = probs[i], values + i * MAX_HEAD_DIM + d
            for j in range(16):
                lanes[j] = fmaf(p, v[j], lanes[j])
                lanes[16 + j] = fmaf(p, v[16 + j], lanes[16 + j])
                lanes[32 + j] = fmaf(p, v[32 + j], lanes[32 + j])
                lanes[48 + j] = fmaf(p, v[48 + j], lanes[48 + j])
        for j in range(64):
            out[d + j] += lanes[j]
        d += 64
    while d < width:
        for j in range(16):
            lanes[j] = 0
        for i in range(n):
            v = values + i * MAX_HEAD_DIM + d
            for j in range(16):
                lanes[j] = fmaf(probs[i], v[j], lanes[j])
        for j in range(16):
            out[d + j] += lanes[j]
        d += 16
