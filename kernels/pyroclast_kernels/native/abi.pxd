# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# What every Cython kernel shares: the C ABI of abi.h, and the 16-bit floats of simd.h.
#
# The kernels themselves are plain Cython: loops over 16 (or 32) lanes of local arrays, which GCC
# turns into vector instructions at -O3.  The only C here converts 16-bit floats, since no loop over
# integers becomes vcvtph2ps.
#
# What makes the difference between vector and scalar code (read -fopt-info-vec, then the assembly):
#   - sums live in local arrays of constant size: nothing aliases them, so they stay in registers
#   - inner loops have constant bounds, and no branches: see choose() in activation/cython/lanes.pxd
#   - float constants are typed (`cdef float one = 1`): a bare literal is a double in C
#   - no plain copies between arrays of lanes: GCC copies 16 bytes at a time, and a load of 32 bytes
#     that follows waits until both halves have left the store buffer
from libc.stdint cimport int8_t, int32_t, int64_t, uint16_t


cdef extern from "native/abi.h" nogil:
    ctypedef struct Q8Block:
        float scale
        float sum_scaled
        int32_t minus_8_sum
        int32_t minus_128_sum
        int8_t values[32]
        float half_scaled[2]
        int32_t minus_4_half_sum[2]

    # The half-open range of items that part `part` of `n_parts` handles.
    ctypedef struct Range:
        int64_t begin
        int64_t end

    Range split(int64_t n_items, int part, int n_parts)


cdef extern from "native/simd.h" nogil:
    float half_to_float(uint16_t h)
    float bfloat_to_float(uint16_t b)
    uint16_t float_to_half(float f)


cdef extern from * nogil:
    """
    static inline void halves_to_floats(const uint16_t *halves, float *out) {
    #if defined(__F16C__)
      for (int i = 0; i < 16; i += 8) {
        __m128i eight = _mm_loadu_si128((const __m128i *)(halves + i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(eight));
      }
    #else
      for (int i = 0; i < 16; i++) out[i] = half_to_float(halves[i]);
    #endif
    }
    """
    void halves_to_floats(const uint16_t *halves, float *out)  # sixteen


# A cell of the key-value cache: float32, or float16 as its bits.
ctypedef fused Cell:
    float
    uint16_t


cdef inline float cell_to_float(const Cell *cell) noexcept nogil:
    if Cell is float:
        return cell[0]
    else:
        return half_to_float(cell[0])


cdef inline void float_to_cell(float x, Cell *cell) noexcept nogil:
    if Cell is float:
        cell[0] = x
    else:
        cell[0] = float_to_half(x)


cdef inline void load_cells(const Cell *cells, float *out) noexcept nogil:
    """Sixteen neighbouring cells as float32."""
    cdef int i
    if Cell is float:
        for i in range(16):
            out[i] = cells[i]
    else:
        halves_to_floats(cells, out)
