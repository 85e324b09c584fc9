# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# The packed weight layout of packed.h, for Cython: one struct per format, so that a pointer steps
# from block to block (or column to column) and a fused type picks the code.
from libc.stdint cimport int64_t, uint8_t, uint16_t

from pyroclast_kernels.native.abi cimport halves_to_floats


# The quants of a block of 32 columns, 16 rows side by side, as pairs of neighbouring columns: pair
# 32 * k + 2 * row + h holds columns 4 * k + 2 * h (low byte) and 4 * k + 2 * h + 1 (high byte).
cdef struct Q8_0:
    uint16_t pairs[256]


# Nibbles: the low ones are columns 0..15, the high ones columns 16..31.
cdef struct Q4_0:
    uint16_t pairs[128]


cdef struct Q4_1:
    uint16_t pairs[128]


cdef struct Q4_K:
    uint16_t pairs[128]


# One column of 16 rows.
cdef struct F32:
    float lanes[16]


cdef struct F16:
    uint16_t lanes[16]


cdef struct BF16:
    uint16_t lanes[16]


ctypedef fused Quants:
    Q8_0
    Q4_0
    Q4_1
    Q4_K


ctypedef fused WithMinimum:
    Q4_1
    Q4_K


ctypedef fused Values:
    F32
    F16
    BF16


ctypedef fused Format:
    Q8_0
    Q4_0
    Q4_1
    Q4_K
    F32
    F16
    BF16


# Where the scales and the quants of block b are in a group.  64 bytes of scales lie before the
# blocks that they belong to, one (q4_1) or two; q4_k has 320 bytes before 8 blocks: d and dmin,
# then 8 scales and 8 minimums of 16 rows, a byte each.
cdef inline const uint16_t *scales_of(
    const Quants *format, const uint8_t *group, int64_t b
) noexcept nogil:
    cdef int64_t size = sizeof(Quants)
    if Quants is Q4_K:
        return <const uint16_t *>(group + b // 8 * (320 + 8 * size))
    elif Quants is Q4_1:
        return <const uint16_t *>(group + b * (64 + size))
    else:
        return <const uint16_t *>(group + b // 2 * (64 + 2 * size) + b % 2 * 32)


cdef inline const Quants *quants_of(
    const Quants *format, const uint8_t *group, int64_t b
) noexcept nogil:
    cdef int64_t before
    if Quants is Q4_K:
        before = (b // 8 + 1) * 320
    elif Quants is Q4_1:
        before = (b + 1) * 64
    else:
        before = (b // 2 + 1) * 64
    return <const Quants *>(group + before + b * <int64_t>sizeof(Quants))


cdef inline const uint8_t *small_of(const uint16_t *scales, int64_t b) noexcept nogil:
    """q4_k: 16 scales of block b; 128 bytes on, its minimums."""
    return <const uint8_t *>scales + 64 + 16 * (b % 8)


cdef inline void load_scales(
    const Quants *format, const uint8_t *group, int64_t b, float *scale, float *minimum
) noexcept nogil:
    """scale (16,) and, where there are minimums, minimum (16,) of block b."""
    cdef const uint16_t *scales = scales_of(format, group, b)
    cdef const uint8_t *small
    cdef int i
    halves_to_floats(scales, scale)
    if Quants in WithMinimum:
        halves_to_floats(scales + 16, minimum)
    if Quants is Q4_K:
        small = small_of(scales, b)
        for i in range(16):
            scale[i] = scale[i] * small[i]
            minimum[i] = -(minimum[i] * small[128 + i])


cdef inline int64_t quants_group_bytes(const Quants *format, int64_t n_cols) noexcept nogil:
    cdef const uint8_t *group = NULL
    return <const uint8_t *>(quants_of(format, group, n_cols // 32 - 1) + 1) - group


cdef inline int64_t values_group_bytes(const Values *format, int64_t n_cols) noexcept nogil:
    return (n_cols * <int64_t>sizeof(Values) + 63) // 64 * 64


cdef inline int64_t group_bytes(const Format *format, int64_t n_cols) noexcept nogil:
    """Bytes of a group of 16 rows."""
    if Format in Values:
        return values_group_bytes(format, n_cols)
    else:
        return quants_group_bytes(format, n_cols)


cdef inline int quant_of(const Quants *block, int row, int column) noexcept nogil:
    """One quant, without the offset of unsigned storage: -128..127, -8..7, or 0..15 for q4_1
    and q4_k."""
    cdef const uint8_t *quads = <const uint8_t *>block.pairs + 4 * row
    cdef int quant
    if Quants is Q8_0:
        return <int>quads[64 * (column // 4) + column % 4] - 128
    else:
        quant = quads[64 * (column % 16 // 4) + column % 4]
        quant = quant & 15 if column < 16 else quant >> 4
        if Quants is Q4_0:
            quant -= 8
        return quant
