# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# pack: rows as they lie in the file -> the packed layout of packed.pxd.
from libc.stdint cimport int64_t, uint8_t, uint16_t
from libc.string cimport memcpy

from pyroclast_kernels.matmul.cython.packed cimport (
    BF16, F16, F32, Format, Q4_0, Q4_1, Q4_K, Q8_0, Quants, Values,
    group_bytes, quants_of, scales_of, small_of,
)
from pyroclast_kernels.native.abi cimport Range, split


cdef struct PackArgs:
    const uint8_t *raw
    uint8_t *weight
    int64_t n_rows
    int64_t n_cols
    int64_t row_offset


cdef inline int64_t row_bytes(const Format *format, int64_t n_cols) noexcept nogil:
    if Format in Values:
        return n_cols * <int64_t>sizeof(Format) // 16
    elif Format is Q4_K:
        return n_cols // 256 * 144
    elif Format is Q4_1:
        return n_cols // 32 * 20
    else:
        return n_cols // 32 * (2 + <int64_t>sizeof(Format) // 16)


cdef inline void pack_quants(
    const Quants *format, const uint8_t *row, uint8_t *group, int lane, int64_t n_cols
) noexcept nogil:
    cdef int64_t header = 2 if Quants is Q4_1 else 1, n_quads = sizeof(Quants) // 64, b, k
    cdef uint8_t *quants
    cdef uint8_t *scales
    cdef int i
    for b in range(n_cols // 32):
        scales = <uint8_t *>scales_of(format, group, b) + 2 * lane
        quants = <uint8_t *>quants_of(format, group, b) + 4 * lane
        for k in range(header):
            memcpy(scales, row, 2)
            scales += 32
            row += 2
        for k in range(n_quads):
            for i in range(4):
                if Quants is Q8_0:
                    quants[i] = row[i] ^ 128
                else:
                    quants[i] = row[i]
            quants += 64
            row += 4


cdef inline void pack_q4_k_block(
    const uint8_t *row, const Q4_K *format, uint8_t *group, int lane, int64_t b
) noexcept nogil:
    """Scales and minimums have 6 bits: those of blocks 0..3 whole in bytes 0..7, whose highest two
    complete those of blocks 4..7, the rest of which is in bytes 8..11."""
    cdef const uint8_t *packed = row + 4
    cdef const uint8_t *codes = row + 16 + 32 * (b % 8 // 2)
    cdef uint8_t *scales = <uint8_t *>scales_of(format, group, b)
    cdef uint8_t *small = <uint8_t *>small_of(<const uint16_t *>scales, b) + lane
    cdef uint8_t *quants = <uint8_t *>quants_of(format, group, b) + 4 * lane
    cdef int i = b % 8, shift = b % 2 * 4, k, j
    memcpy(scales + 2 * lane, row, 2)
    memcpy(scales + 32 + 2 * lane, row + 2, 2)
    if i < 4:
        small[0], small[128] = packed[i] & 63, packed[i + 4] & 63
    else:
        small[0] = (packed[i + 4] & 15) | packed[i - 4] >> 6 << 4
        small[128] = packed[i + 4] >> 4 | packed[i] >> 6 << 4
    for k in range(4):
        for j in range(4):
            quants[64 * k + j] = (codes[4 * k + j] >> shift & 15) | (
                (codes[16 + 4 * k + j] >> shift & 15) << 4
            )


cdef inline void pack_q4_k_row(
    const uint8_t *row, uint8_t *group, int lane, int64_t n_cols
) noexcept nogil:
    cdef int64_t b
    for b in range(n_cols // 32):
        pack_q4_k_block(row + b // 8 * 144, NULL, group, lane, b)


cdef inline void pack_values(
    const Values *format, const uint8_t *row, uint8_t *group, int lane, int64_t n_cols
) noexcept nogil:
    cdef int64_t size = sizeof(Values) // 16, k
    for k in range(n_cols):
        memcpy(group + k * sizeof(Values) + lane * size, row + k * size, size)


cdef inline void pack(
    const PackArgs *a, const Format *format, int part, int n_parts
) noexcept nogil:
    """Each part fills its own groups; rows outside [row_offset, row_offset + n_rows) stay."""
    cdef int64_t first = a.row_offset // 16, end = a.row_offset + a.n_rows, row
    cdef int64_t size = group_bytes(format, a.n_cols), raw_size = row_bytes(format, a.n_cols)
    cdef Range mine = split((end + 15) // 16 - first, part, n_parts)
    cdef int64_t stop = min(end, 16 * (first + mine.end))
    cdef const uint8_t *raw
    for row in range(max(a.row_offset, 16 * (first + mine.begin)), stop):
        raw = a.raw + (row - a.row_offset) * raw_size
        if Format in Values:
            pack_values(format, raw, a.weight + row // 16 * size, row % 16, a.n_cols)
        elif Format is Q4_K:
            pack_q4_k_row(raw, a.weight + row // 16 * size, row % 16, a.n_cols)
        else:
            pack_quants(format, raw, a.weight + row // 16 * size, row % 16, a.n_cols)
