# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""rope_table and rope in Cython.  See reference.py for the contract.  One token per item.

Pairs are (i, i + rotary_dim / 2), so both halves are contiguous and the rotation
vectorizes; keys go to the cache one cell every block_size, which does not.
"""

from libc.math cimport cos, log, sin
from libc.stdint cimport int32_t, int64_t, uint16_t

from pyroclast_kernels.native.abi cimport Cell, Range, float_to_cell, split


cdef struct RopeTableArgs:
    const int64_t *n_tokens
    const int32_t *positions
    const float *inv_freq
    float *out
    int64_t half_dim
    double amplitude


cdef struct RopeArgs:
    const int64_t *n_tokens
    const int32_t *positions
    const int32_t *seq_index
    const int32_t *block_tables
    const float *table
    float *qkv
    void *k_cache
    void *v_cache
    int64_t n_heads
    int64_t n_kv_heads
    int64_t head_dim
    int64_t rotary_dim
    int64_t block_size
    int64_t max_blocks
    int64_t value_stride
    double temperature
    int64_t temperature_length


cdef void rope_table(const void *args, int part, int n_parts) noexcept nogil:
    cdef const RopeTableArgs *a = <const RopeTableArgs *>args
    cdef Range mine = split(a.n_tokens[0], part, n_parts)
    cdef float angle
    cdef float *out
    cdef int64_t t, i
    for t in range(mine.begin, mine.end):
        out = a.out + t * 2 * a.half_dim
        for i in range(a.half_dim):
            # A float32 product, as the models were trained with; its cosine in float64.
            angle = <float>a.positions[t] * a.inv_freq[i]
            out[i] = <float>(a.amplitude * cos(<double>angle))
            out[a.half_dim + i] = <float>(a.amplitude * sin(<double>angle))


cdef inline void rotate(
    float *head, const float *cosine, const float *sine, int64_t half
) noexcept nogil:
    cdef float a, b
    cdef int64_t i
    for i in range(half):
        a, b = head[i], head[i + half]
        head[i] = a * cosine[i] - b * sine[i]
        head[i + half] = b * cosine[i] + a * sine[i]


cdef inline void grow(const RopeArgs *a, int64_t position, float *q) noexcept nogil:
    """The queries of a token grow with its position."""
    cdef double steps = <double>(1 + position // a.temperature_length)
    cdef float growth = <float>(1 + a.temperature * log(steps))
    cdef int64_t i
    for i in range(a.n_heads * a.head_dim):
        q[i] *= growth


cdef inline void write_cache(
    const RopeArgs *a, Cell *keys, Cell *values, const float *k, const float *v
) noexcept nogil:
    """One head of one position."""
    cdef int64_t d
    for d in range(a.head_dim):
        float_to_cell(k[d], keys + d * a.block_size)
        float_to_cell(v[d], values + d)


cdef inline void rope(
    const RopeArgs *a, Cell *k_cache, Cell *v_cache, int part, int n_parts
) noexcept nogil:
    cdef Range mine = split(a.n_tokens[0], part, n_parts)
    cdef int64_t half = a.rotary_dim // 2, n_rotated = a.n_heads + a.n_kv_heads
    cdef int64_t t, h, position, slot, at
    cdef float *q
    cdef float *k
    cdef float *v
    cdef const float *cosine
    for t in range(mine.begin, mine.end):
        q = a.qkv + t * (n_rotated + a.n_kv_heads) * a.head_dim
        k = q + a.n_heads * a.head_dim
        v = k + a.n_kv_heads * a.head_dim
        cosine = a.table + t * 2 * half
        for h in range(n_rotated):
            rotate(q + h * a.head_dim, cosine, cosine + half, half)
        position = a.positions[t]
        if a.temperature > 0:
            grow(a, position, q)
        slot = position % a.block_size
        at = a.block_tables[a.seq_index[t] * a.max_blocks + position // a.block_size] * a.n_kv_heads
        for h in range(a.n_kv_heads):
            write_cache(
                a,
                k_cache + (at + h) * a.head_dim * a.block_size + slot,
                v_cache + ((at + h) * a.block_size + slot) * a.value_stride,
                k + h * a.head_dim,
                v + h * a.head_dim,
            )


cdef void rope_f32(const void *args, int part, int n_parts) noexcept nogil:
    cdef const RopeArgs *a = <const RopeArgs *>args
    rope(a, <float *>a.k_cache, <float *>a.v_cache, part, n_parts)


cdef void rope_f16(const void *args, int part, int n_parts) noexcept nogil:
    cdef const RopeArgs *a = <const RopeArgs *>args
    rope(a, <uint16_t *>a.k_cache, <uint16_t *>a.v_cache, part, n_parts)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {
        "rope_table.f32": <size_t>&rope_table,
        "rope.f32": <size_t>&rope_f32,
        "rope.f16": <size_t>&rope_f16,
    }
