# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""softmax in Cython: one row of logits to probabilities or log-probabilities, float32.

Pass 1: the maximum, and whether one is NaN; a bias or a mask is applied here, into `out`.
Pass 2: weights 2^((z - maximum) * scale), scale = log2(e) / temperature, and their sum: 32 float32
        lanes for 1024 values, then float64.  For logarithms only the sum.
Pass 3: times 1 / sum, or the difference to its logarithm.
`out` may be the logits: what is read of 16 neighbours is read before any of them is written.
"""

from libc.math cimport INFINITY, NAN, isfinite, log
from libc.stdint cimport int64_t, uint32_t

from pyroclast_kernels.activation.cython.lanes cimport choose
from pyroclast_kernels.native.abi cimport Range, split
from pyroclast_kernels.sample.cython.lanes cimport (
    BLOCK, AnyWeigher, Extremes, Weigher, clear, plain, sixteen, sum_pairs, sum_weights, weigh,
    weigher_of,
)
from pyroclast_kernels.sample.cython.list cimport first_equal, scan


cdef struct SoftmaxArgs:
    const float *logits
    const int64_t *n_rows
    const double *temperatures
    const float *bias
    const uint32_t *allowed
    float *out
    int64_t n_cols
    int64_t logits_stride
    int64_t out_stride
    int64_t log


cdef inline void adjust_word(
    const float *logits, const float *bias, uint32_t allowed, float *out, int64_t n
) noexcept nogil:
    """out (n,) = logits + bias, -inf where the bit of `allowed` is not set; n <= 32.  It goes by
    way of local lanes: `out` may be the logits, and GCC would store one value after the other."""
    cdef float lanes[32]
    cdef float minus_infinity = -INFINITY
    cdef uint32_t i  # as wide as a lane, so that all lanes are shifted at once
    for i in range(n):
        lanes[i] = logits[i]
    if bias != NULL:
        for i in range(n):
            lanes[i] += bias[i]
    for i in range(n):
        lanes[i] = choose((allowed >> i) & 1, lanes[i], minus_infinity)
    for i in range(n):
        out[i] = lanes[i]


cdef void adjust(
    const float *logits, const float *bias, const uint32_t *allowed, float *out, int64_t n
) noexcept nogil:
    cdef const float *more = NULL
    cdef uint32_t bits = <uint32_t>-1
    cdef int64_t at
    for at in range(0, n, 32):
        if bias != NULL:
            more = bias + at
        if allowed != NULL:
            bits = allowed[at // 32]
        if n - at >= 32:
            adjust_word(logits + at, more, bits, out + at, 32)
        else:
            adjust_word(logits + at, more, bits, out + at, n - at)


cdef inline void fill(float *out, int64_t n, float value) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        out[i] = value


cdef inline double weights_of(
    const float *z, float *out, int64_t n, AnyWeigher weigher
) noexcept nogil:
    """out (n,) = the weights; returns their sum."""
    cdef float sums[32]
    cdef float w[32]
    cdef float padded[16]
    cdef float zero = 0, minus_infinity = -INFINITY
    cdef double total = 0
    cdef int64_t block, begin, end, i
    cdef const float *at
    cdef int j
    for block in range((n + BLOCK - 1) // BLOCK):
        begin = block * BLOCK
        end = min(n, begin + BLOCK)
        clear(sums, 32)
        i = begin
        while i + 32 <= end:
            for j in range(32):
                w[j] = weigh(weigher, z[i + j])
                sums[j] += w[j]
            for j in range(32):
                out[i + j] = w[j] + zero  # a plain copy would go 16 bytes at a time
            i += 32
        while i < end:
            at = sixteen(z + i, end - i, minus_infinity, padded)
            for j in range(16):
                w[j] = choose(at[j] > minus_infinity, weigh(weigher, at[j]), zero)
                sums[j] += w[j]
            for j in range(min(<int64_t>16, end - i)):
                out[i + j] = w[j]
            i += 16
        total += sum_pairs(sums)
    return total


cdef void logarithms(
    const float *z, float *out, int64_t n, float maximum, float scale, float log_total
) noexcept nogil:
    cdef float lanes[16]
    cdef int64_t i, whole = n // 16 * 16
    cdef int j
    for i in range(0, whole, 16):
        for j in range(16):
            lanes[j] = (z[i + j] - maximum) * scale - log_total
        for j in range(16):
            out[i + j] = lanes[j]
    for i in range(whole, n):
        out[i] = (z[i] - maximum) * scale - log_total


cdef void softmax_row(
    const float *z, float *out, int64_t n, double temperature, bint logs
) noexcept nogil:
    cdef Extremes extremes
    cdef double total
    cdef float inverse
    cdef int64_t i
    if not scan(z, n, NULL, &extremes) or not isfinite(extremes.maximum):
        fill(out, n, NAN)
        return
    if temperature < 1e-5:
        i = first_equal(z, n, extremes.maximum)
        fill(out, n, <float>-INFINITY if logs else <float>0)
        out[i] = 0 if logs else 1
        return
    cdef Weigher weigher = weigher_of(extremes, temperature)
    if logs:
        logarithms(
            z, out, n, extremes.maximum, <float>(1 / temperature),
            <float>log(sum_weights(z, n, weigher)),
        )
    else:
        if weigher.plain:
            total = weights_of(z, out, n, plain(weigher))
        else:
            total = weights_of(z, out, n, weigher)
        inverse = <float>(1 / total)
        for i in range(n):
            out[i] = out[i] * inverse


cdef void softmax(const void *args, int part, int n_parts) noexcept nogil:
    cdef const SoftmaxArgs *a = <const SoftmaxArgs *>args
    cdef int64_t n_words = (a.n_cols + 31) // 32, r
    cdef Range mine = split(a.n_rows[0], part, n_parts)
    cdef const float *z
    cdef const uint32_t *allowed
    cdef float *out
    for r in range(mine.begin, mine.end):
        z, out = a.logits + r * a.logits_stride, a.out + r * a.out_stride
        if a.bias != NULL or a.allowed != NULL:
            allowed = a.allowed + r * n_words if a.allowed != NULL else NULL
            adjust(z, a.bias, allowed, out, a.n_cols)
            z = out
        softmax_row(
            z, out, a.n_cols, a.temperatures[r] if a.temperatures != NULL else 1.0, a.log != 0
        )


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"softmax.f32": <size_t>&softmax}
