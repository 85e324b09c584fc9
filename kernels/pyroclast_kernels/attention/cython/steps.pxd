# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# The inner loops of attention: scores, exponentials, weighted values.  Scores and values are of one
# query row, or of ROWS that share every load of keys and values; a row's sums have the same order
# either way.  Sums over a row have two inner loops, each half of the lanes or of the rows: GCC
# would unroll and jam a single one (-O3), and then keep the sums in memory.
from libc.math cimport INFINITY, fmaf
from libc.stdint cimport int64_t

from pyroclast_kernels.activation.cython.lanes cimport (
    exp_lane, max_lanes, sum_lanes, tanh_lane,
)

cdef enum:
    MAX_HEAD_DIM = 512  # floats between two rows of values; model.py refuses larger heads
    STEP = 32  # positions whose keys or values are converted to float32 at a time
    ROWS = 4  # whose sums of 16 lanes fill half of the 16 registers


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
        for i in range(16, 32):
            lanes[i] = fmaf(keys[STEP * d + i], q[d], lanes[i])
    for i in range(32):
        out[i] = lanes[i] * scale


cdef inline void score_rows(
    const float *const *q, const float *keys, int64_t head_dim, float scale, float *out,
    int64_t stride
) noexcept nogil:
    """The same for ROWS queries; rows of out are `stride` apart."""
    cdef const float *q0 = q[0]
    cdef const float *q1 = q[1]
    cdef const float *q2 = q[2]
    cdef const float *q3 = q[3]
    cdef float lanes[64]
    cdef float y0, y1, y2, y3
    cdef int64_t d
    cdef int first, i
    for first in range(0, 32, 16):
        for i in range(64):
            lanes[i] = 0
        for d in range(head_dim):
            y0, y1, y2, y3 = q0[d], q1[d], q2[d], q3[d]
            for i in range(16):
                lanes[i] = fmaf(keys[STEP * d + first + i], y0, lanes[i])
                lanes[16 + i] = fmaf(keys[STEP * d + first + i], y1, lanes[16 + i])
            for i in range(16):
                lanes[32 + i] = fmaf(keys[STEP * d + first + i], y2, lanes[32 + i])
                lanes[48 + i] = fmaf(keys[STEP * d + first + i], y3, lanes[48 + i])
        for i in range(16):
            out[first + i] = lanes[i] * scale
            out[stride + first + i] = lanes[16 + i] * scale
            out[2 * stride + first + i] = lanes[32 + i] * scale
            out[3 * stride + first + i] = lanes[48 + i] * scale


cdef inline void cap_scores(float *scores, int64_t n, float cap) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        scores[i] = cap * tanh_lane(scores[i] / cap)


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
        for j in range(8):
            top[j] = scores[i + j] if scores[i + j] > top[j] else top[j]
        for j in range(8, 16):
            top[j] = scores[i + j] if scores[i + j] > top[j] else top[j]
    cdef float largest = max_lanes(top)
    for i in range(padded):
        scores[i] = exp_lane(scores[i] - largest)
    for i in range(0, padded, 16):
        for j in range(8):
            total[j] += scores[i + j]
        for j in range(8, 16):
            total[j] += scores[i + j]
    maximum[0] = largest
    return sum_lanes(total)


cdef inline void add_values(
    const float *probs, const float *values, int64_t n, int64_t width, float *out
) noexcept nogil:
    """out (width,) += sum over n positions of probs * values (n, width); width is a multiple of
    16."""
    cdef float lanes[16]
    cdef int64_t d, i
    cdef const float *v
    cdef int j
    for d in range(0, width, 16):
        for j in range(16):
            lanes[j] = 0
        for i in range(n):
            v = values + i * width + d
            for j in range(8):
                lanes[j] = fmaf(probs[i], v[j], lanes[j])
            for j in range(8, 16):
                lanes[j] = fmaf(probs[i], v[j], lanes[j])
        for j in range(16):
            out[d + j] += lanes[j]


cdef inline void add_values_of_rows(
    const float *probs, int64_t stride, const float *values, int64_t n, int64_t width, float *out
) noexcept nogil:
    """The same for ROWS rows: of probs `stride` apart, of out MAX_HEAD_DIM."""
    cdef float lanes[64]
    cdef const float *probs_2 = probs + 2 * stride
    cdef float p0, p1, p2, p3
    cdef int64_t d, i
    cdef const float *v
    cdef int j
    for d in range(0, width, 16):
        for j in range(64):
            lanes[j] = 0
        for i in range(n):
            v = values + i * width + d
            p0, p1, p2, p3 = probs[i], probs[stride + i], probs_2[i], probs_2[stride + i]
            for j in range(16):
                lanes[j] = fmaf(p0, v[j], lanes[j])
                lanes[16 + j] = fmaf(p1, v[j], lanes[16 + j])
            for j in range(16):
                lanes[32 + j] = fmaf(p2, v[j], lanes[32 + j])
                lanes[48 + j] = fmaf(p3, v[j], lanes[48 + j])
        for j in range(16):
            out[d + j] += lanes[j]
            out[MAX_HEAD_DIM + d + j] += lanes[16 + j]
            out[2 * MAX_HEAD_DIM + d + j] += lanes[32 + j]
            out[3 * MAX_HEAD_DIM + d + j] += lanes[48 + j]
