# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Element-wise functions that GCC vectorizes inside a loop over lanes, and the quantization of
# activations to 8 bits: the epilogue of norm, swiglu and attention.
from libc.math cimport INFINITY, fabsf, fmaf
from libc.stdint cimport int8_t, int32_t, uint32_t

from pyroclast_kernels.native.abi cimport Q8Block


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


cdef inline void quantize_block(const float *x, Q8Block *out) noexcept nogil:
    """values = round(x / scale) to nearest even, scale = max|x| / 127.  A NaN or an infinity among
    the 32 values makes the scale NaN, so that it reaches the logits and is noticed there."""
    cdef float poison[16]
    cdef float largest[16]
    cdef float a, b, zero = 0, magic = 12582912.0
    cdef int32_t rounded[32]
    cdef int32_t first = 0, total = 0
    cdef int i
    for i in range(16):
        poison[i] = x[i] * zero + x[i + 16] * zero  # 0, or NaN
        a, b = fabsf(x[i]), fabsf(x[i + 16])
        largest[i] = a if a > b else b
    cdef float top = max_lanes(largest)
    cdef float inverse = (<float>127) / top if top > 0 else zero
    for i in range(32):
        rounded[i] = <int32_t>(x[i] * inverse + magic - magic)
    for i in range(32):
        out.values[i] = <int8_t>rounded[i]
        total += out.values[i]
    for i in range(16):
        first += out.values[i]
    out.scale = top / (<float>127) + sum_lanes(poison)
    out.sum_scaled = out.scale * <float>total
    out.minus_8_sum = -8 * total
    out.minus_128_sum = -128 * total
    out.half_scaled[0] = out.scale * <float>first
    out.half_scaled[1] = out.scale * <float>(total - first)
    out.minus_4_half_sum[0] = -4 * first
    out.minus_4_half_sum[1] = -4 * (total - first)
