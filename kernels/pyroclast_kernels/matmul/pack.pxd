# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# pack: rows as they lie in the file -> the packed layout of packed.pxd.
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

from pyroclast_kernels.matmul.packed cimport (
    BF16, F16, F32, Format, Q4_0, Q4_1, Q8_0, Quants, Values,
    group_bytes, n_scales, quants_of, scales_of,
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
    else:
        return n_cols // 32 * (2 * n_scales(format) + <int64_t>sizeof(Format) // 16)


cdef inline void pack_quants(
    const Quants *format, const uint8_t *row, uint8_t *group, int lane, int64_t n_cols
) noexcept nogil:
    cdef int64_t header = n_scales(format), n_quads = sizeof(Quants) // 64, b, k
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
        else:
            pack_quants(format, raw, a.weight + row // 16 * size, row % 16, a.n_cols)
