# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Element-wise functions that GCC vectorizes inside a loop over lanes, and the quantization of
# activations to 8 bits: the epilogue of norm, glu and attention.
from libc.float cimport FLT_MAX
from libc.math cimport INFINITY, NAN, fmaf
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint32_t
from libc.string cimport memset

from pyroclast_kernels.native.abi cimport Q8Block

cdef extern from * nogil:
    void prefetch "__builtin_prefetch"(const void *line)


cdef enum:
    RUN = 8  # blocks of 32 that are quantized together


cdef union Bits:
    float as_float
    uint32_t as_int


cdef inline float choose(bint condition, float a, float b) noexcept nogil:
    """`a if condition else b` without a branch, which GCC would not vectorize: it moves the work
    that leads to a or b into the branch, and floating-point work may trap."""
    cdef Bits x, y
    cdef uint32_t mask = -<uint32_t>condition
    x.as_float = a
    y.as_float = b
    x.as_int = (x.as_int & mask) | (y.as_int & ~mask)
    return x.as_float


cdef inline float two_to_the(int32_t n) noexcept nogil:
    cdef Bits bits
    bits.as_int = <uint32_t>(n + 127) << 23
    return bits.as_float


cdef inline float exp_lane(float x) noexcept nogil:
    """exp(x), at most 2 ulp for x in [-87.3, 88.7]; 0 below, inf above, NaN stays NaN.  The method
    and the constants are those of simd.h: x = n ln2 + r, a polynomial for e^r, the exponent."""
    cdef float lo = -87.33654, hi = 88.72283, magic = 12582912.0, log2_e = 1.44269504088896341
    cdef float one = 1, zero = 0, infinity = INFINITY
    cdef float clamped = choose(x < lo, lo, choose(x > hi, hi, x))  # a NaN passes
    cdef float n = clamped * log2_e + magic - magic  # to the nearest integer
    cdef float r = fmaf(n, 2.12194440e-4, fmaf(n, -0.693359375, clamped))
    cdef float p = fmaf(1.9875691500e-4, r, 1.3981999507e-3)
    p = fmaf(p, r, 8.3334519073e-3)
    p = fmaf(p, r, 4.1665795894e-2)
    p = fmaf(p, r, 1.6666665459e-1)
    p = fmaf(p, r, 5.0000001201e-1)
    p = fmaf(p, r * r, r) + one
    # 2^n in two factors: n = 128 has no float of its own.
    cdef int32_t whole = <int32_t>choose(n == n, n, zero), half = whole >> 1
    cdef float y = p * two_to_the(half) * two_to_the(whole - half)
    return choose(x < lo, zero, choose(x > hi, infinity, y))


cdef inline float tanh_lane(float x) noexcept nogil:
    """At most 3 ulp, NaN stays NaN; the method and the constants are those of native/tanh.h."""
    cdef float zero = 0, one = 1, two = 2, limit = 0.625
    cdef float y = choose(x < zero, -x, x), z = x * x
    cdef float p = fmaf(-5.70498872745e-3, z, 2.06390887954e-2)
    p = fmaf(p, z, -5.37397155531e-2)
    p = fmaf(p, z, 1.33314422036e-1)
    p = fmaf(p, z, -3.33332819422e-1)
    cdef float near = fmaf(x * z, p, x), far = one - two / (exp_lane(y + y) + one)
    return choose(y < limit, near, choose(x < zero, -far, far))


cdef inline float silu_lane(float g) noexcept nogil:
    cdef float one = 1
    return g / (one + exp_lane(-g))


cdef inline float gelu_tanh_lane(float g) noexcept nogil:
    """g (1 + tanh u) / 2 as g / (1 + e^-2u): see activation/cpp/gate.h, also for the error."""
    cdef float one = 1, slope = fmaf(g * g, -0.0713548162726, -1.59576912161)
    return g / (one + exp_lane(g * slope))


cdef inline float gelu_lane(float g) noexcept nogil:
    """g erfc(-g / sqrt 2) / 2; the polynomial of activation/cpp/gate.h, and its error."""
    cdef float one = 1, half = 0.5, zero = 0
    cdef float y = choose(g < zero, -g, g), t = one / fmaf(y, 0.35, one)
    cdef float p = fmaf(-0.029115023, t, 0.143818453)
    p = fmaf(p, t, -0.255391061)
    p = fmaf(p, t, 0.158796638)
    p = fmaf(p, t, -0.0228434708)
    p = fmaf(p, t, 0.105392166)
    p = fmaf(p, t, 0.119863085)
    p = fmaf(p, t, 0.13985756)
    p = fmaf(p, t, 0.13962166)
    cdef float tail = exp_lane(-half * (y * y)) * (t * p)
    return g * choose(g < zero, tail, one - tail)


cdef inline float relu_lane(float g) noexcept nogil:
    """-0 and NaN stay what they are."""
    cdef float zero = 0
    return choose(g < zero, zero, g)


cdef inline float sum_lanes(float *x) noexcept nogil:
    """The sum of 16 lanes by one fixed tree (8 + 8, 4 + 4, 2 + 2, 1 + 1); x is spent."""
    cdef int i
    for i in range(8):
        x[i] = x[i] + x[i + 8]
    for i in range(4):
        x[i] = x[i] + x[i + 4]
    return (x[0] + x[2]) + (x[1] + x[3])


cdef inline float max_lanes(float *x) noexcept nogil:
    """The largest of 16 lanes; x is spent.  A NaN may be dropped."""
    cdef int i
    for i in range(8):
        x[i] = x[i] if x[i] > x[i + 8] else x[i + 8]
    for i in range(4):
        x[i] = x[i] if x[i] > x[i + 4] else x[i + 4]
    for i in range(2):
        x[i] = x[i] if x[i] > x[i + 2] else x[i + 2]
    return x[0] if x[0] > x[1] else x[1]


cdef inline float loss_at(const int32_t *words, int32_t factor) noexcept nogil:
    """The sum of 32 squares of what a level leaves (pyroclast_kernels.q8_blocks)."""
    cdef int32_t rest, sums = 0
    cdef int i
    for i in range(32):
        rest = <int32_t>(<uint32_t>((words[i] * factor + (1 << 14)) >> 15) << 24) >> 24
        sums += rest * rest
    return <float>sums


cdef inline float best_level(const float *x, float largest) noexcept nogil:
    """Of 32 values: see pyroclast_kernels.q8_blocks.best_levels."""
    cdef int32_t words[32]
    cdef float magic = 12582912.0, most = 1.298074214633707e33, steps = 256  # 2^110
    cdef float first = 127, inverse = first / largest, factor, least, loss, level = first, other
    cdef int32_t words_factor
    cdef int i, step
    factor = choose(inverse < most, inverse, most) * steps
    for i in range(32):
        words[i] = <int32_t>(x[i] * factor + magic - magic)
    least = loss_at(words, 1 << 15)
    for step in range(1, 6):
        other = 127 - 2 * step
        words_factor = (((127 - 2 * step) << 16) // 127 + 1) // 2
        loss = loss_at(words, words_factor) * (first * first / (other * other))
        level = choose(loss < least, other, level)
        least = choose(loss < least, loss, least)
    return level


cdef inline void quantize_blocks(const float *x, int n, Q8Block *out) noexcept nogil:
    """n blocks of 32, at most RUN: see pyroclast_kernels.q8_blocks.quantize.
    A NaN or an infinity among the 32 values makes the scale NaN, so that it reaches the logits and
    is noticed there; the values are then 0.

    One step of all blocks after the other: a single one would wait for each of its own results."""
    cdef Bits top[RUN]
    cdef float inverse[RUN]
    cdef float scale[RUN]
    cdef int32_t first[RUN]
    cdef int32_t last[RUN]
    cdef int32_t rounded[32]
    cdef float y, quotient, level, zero = 0, nan = NAN, most = FLT_MAX, magic = 12582912.0
    cdef uint32_t bits, maximum, sums
    cdef bint finite = True
    cdef int b, i
    for b in range(n):
        # As integers, the only kind of maximum that GCC vectorizes; a NaN is above all numbers.
        maximum = 0
        for i in range(32):
            bits = (<const Bits *>x)[32 * b + i].as_int & 0x7fffffff
            maximum = bits if bits > maximum else maximum
        top[b].as_int = maximum
    for b in range(n):
        y = top[b].as_float
        level = best_level(x + 32 * b, y) if y <= most else 127
        quotient = level / y
        inverse[b] = choose(quotient <= most, quotient, zero)  # 0, too, where it is too large
        scale[b] = choose(y <= most, y / level, nan)
        finite &= y <= most
    for b in range(n):
        y = inverse[b]
        for i in range(32):
            rounded[i] = <int32_t>(x[32 * b + i] * y + magic - magic)
        # The sum of the last 16 in the high half of a word: one loop over 32 lanes, since GCC takes
        # shorter ones apart before it looks for vectors.
        sums = 0
        for i in range(32):
            sums += <uint32_t>rounded[i] << (i & 16)
        first[b] = <int16_t>sums
        last[b] = <int32_t>(sums - <uint32_t>first[b]) >> 16
        for i in range(32):
            out[b].values[i] = <int8_t>rounded[i]
    if not finite:
        for b in range(n):
            if not top[b].as_float <= most:
                first[b] = last[b] = 0
                memset(out[b].values, 0, 32)
    for b in range(n):
        out[b].scale = scale[b]
        out[b].sum_scaled = scale[b] * <float>(first[b] + last[b])
        out[b].minus_8_sum = -8 * (first[b] + last[b])
        out[b].minus_128_sum = -128 * (first[b] + last[b])
        out[b].half_scaled[0] = scale[b] * <float>first[b]
        out[b].half_scaled[1] = scale[b] * <float>last[b]
        out[b].minus_4_half_sum[0] = -4 * first[b]
        out[b].minus_4_half_sum[1] = -4 * last[b]


cdef inline void quantize_row(const float *x, int64_t n, Q8Block *out) noexcept nogil:
    """n values, a multiple of 32."""
    cdef int64_t block = 0, n_blocks = n // 32
    while block + RUN <= n_blocks:
        quantize_blocks(x + 32 * block, RUN, out + block)
        block += RUN
    while block < n_blocks:
        quantize_blocks(x + 32 * block, 1, out + block)
        block += 1
