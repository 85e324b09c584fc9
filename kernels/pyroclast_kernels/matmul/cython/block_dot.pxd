# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Exact dot products of one block of 32 columns: 16 rows of quants times quantized activations.
#
# The quants become 16-bit numbers, two columns of 16 rows in 32 lanes, and so do the activations,
# each pair of columns repeated.  A block is then 16 products added up lane by lane, which GCC turns
# into vpmullw and vpaddw.  (vpmaddubsw, which the C++ variants use, is out of a loop's reach.)
# Sums stay exact: 16 * 15 * 127 < 2^15 for nibbles; q8_0 adds two products only, at most
# 2 * 128 * 127 < 2^15, before it sums their low and high bytes apart.
from libc.math cimport fmaf
from libc.stdint cimport int16_t, int32_t, uint16_t, uint32_t

from pyroclast_kernels.matmul.cython.packed cimport Q4_0, Q8_0, Quants, WithMinimum
from pyroclast_kernels.native.abi cimport Q8Block


cdef union Lanes:
    int16_t halves[32]
    uint32_t pairs[16]


# The activations of a block as the products want them: two columns in turn, 8 times, for each of
# the 16 pairs (0, 2), (1, 3), (4, 6), (5, 7), ...  On a boundary of 64 bytes, or every other load
# touches two cache lines: aligned_columns().
cdef union Columns:
    int16_t halves[256]
    uint32_t pairs[128]


# What scales a block of activations.
cdef struct Scales:
    float scale
    float sum_scaled
    int32_t start


cdef inline Columns *aligned_columns(Columns *storage) noexcept nogil:
    return <Columns *>((<size_t>storage + 63) & ~<size_t>63)


cdef inline void spread_block(
    const Quants *format, const Q8Block *x, Columns *columns, Scales *scales
) noexcept nogil:
    cdef uint32_t even, odd
    cdef int k, i
    for k in range(8):
        even = <uint16_t>x.values[4 * k] | <uint32_t>x.values[4 * k + 2] << 16
        odd = <uint16_t>x.values[4 * k + 1] | <uint32_t>x.values[4 * k + 3] << 16
        for i in range(8):
            columns.pairs[16 * k + i] = even
            columns.pairs[16 * k + 8 + i] = odd
    scales.scale, scales.sum_scaled = x.scale, x.sum_scaled
    if Quants is Q4_0:
        scales.start = x.minus_8_sum
    else:
        scales.start = 0


cdef inline void unpack(const Quants *block, int16_t *w) noexcept nogil:
    """w (16, 32): even and odd columns of each quad, 16 rows side by side."""
    cdef uint16_t pair
    cdef int k, i
    if Quants is Q8_0:
        for k in range(8):
            for i in range(32):
                pair = block.pairs[32 * k + i]
                w[64 * k + i] = (pair & 255) - 128
                w[64 * k + 32 + i] = (pair >> 8) - 128
    else:
        for k in range(4):
            for i in range(32):
                pair = block.pairs[32 * k + i]
                w[64 * k + i] = pair & 15
                w[64 * k + 32 + i] = (pair >> 8) & 15
                w[64 * k + 256 + i] = (pair >> 4) & 15
                w[64 * k + 288 + i] = pair >> 12


cdef inline int32_t sum_of_pair(uint32_t pair) noexcept nogil:
    return (<int32_t>(pair << 16) >> 16) + (<int32_t>pair >> 16)


cdef inline void dot(
    const Quants *format, const int16_t *w, const int16_t *x, Lanes *low, Lanes *high
) noexcept nogil:
    """Pair `row` of low, and for q8_0 256 times that of high, add up to the exact sum over the 32
    columns of a block."""
    cdef int16_t products, low_sum, high_sum, even, odd
    cdef int half, i, k
    for half in range(0, 32, 16):
        for i in range(16):
            low_sum = high_sum = 0
            if Quants is Q8_0:
                for k in range(8):
                    even = w[64 * k + half + i] * x[32 * k + i]
                    odd = w[64 * k + 32 + half + i] * x[32 * k + 16 + i]
                    products = even + odd
                    low_sum += products & 255
                    high_sum += products >> 8
                high.halves[half + i] = high_sum
            else:
                for k in range(16):
                    low_sum += w[32 * k + half + i] * x[16 * k + i]
            low.halves[half + i] = low_sum


cdef inline void add_scaled(
    const Quants *format, const Lanes *low, const Lanes *high, const Scales *x,
    const float *scale, const float *minimum, float *acc
) noexcept nogil:
    """acc (16,) += what dot() found times the scales (plus the minimums times the sum of x)."""
    cdef float x_scale = x.scale, x_sum = x.sum_scaled, y
    cdef int32_t start = x.start, total
    cdef int i
    # One loop, not several short ones: GCC unrolls those before it looks for vectors.
    for i in range(16):
        total = start + sum_of_pair(low.pairs[i])
        if Quants is Q8_0:
            total += 256 * sum_of_pair(high.pairs[i])
        y = fmaf(<float>total, scale[i] * x_scale, acc[i])
        if Quants in WithMinimum:
            y = fmaf(minimum[i], x_sum, y)
        acc[i] = y
