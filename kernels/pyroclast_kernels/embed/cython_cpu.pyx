# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""embed in Cython: out[t] = scale * row token_ids[t] of a packed weight, dequantized to float32, or
added to what out[t] holds.

See reference.py for the contract.  One token per item; a row is one lane of its group, so the reads
are strided and nothing vectorizes: a few microseconds per token.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t

from pyroclast_kernels.matmul.cython.packed cimport (
    BF16, F16, F32, Format, Q4_0, Q4_1, Q4_K, Q8_0, Quants, Values, WithMinimum,
    group_bytes, quant_of, quants_of, scales_of, small_of,
)
from pyroclast_kernels.native.abi cimport Range, bfloat_to_float, half_to_float, split


cdef struct EmbedArgs:
    const int64_t *n_tokens
    const int32_t *token_ids
    const uint8_t *weight
    float *out
    int64_t n_cols
    double scale
    int64_t accumulate


cdef inline void put(const EmbedArgs *a, float *out, float value) noexcept nogil:
    value = <float>a.scale * value
    out[0] = out[0] + value if a.accumulate else value


cdef inline void quants_row(
    const EmbedArgs *a, const Quants *format, const uint8_t *group, int lane, float *out
) noexcept nogil:
    cdef const Quants *block
    cdef const uint16_t *scales
    cdef const uint8_t *small
    cdef float scale, minimum = 0, value
    cdef int64_t b
    cdef int k
    for b in range(a.n_cols // 32):
        block, scales = quants_of(format, group, b), scales_of(format, group, b)
        scale = half_to_float(scales[lane])
        if Quants in WithMinimum:
            minimum = half_to_float(scales[16 + lane])
        if Quants is Q4_K:
            small = small_of(scales, b) + lane
            scale, minimum = scale * small[0], -(minimum * small[128])
        for k in range(32):
            value = scale * <float>quant_of(block, lane, k)
            if Quants in WithMinimum:
                value = value + minimum
            put(a, out + 32 * b + k, value)


cdef inline void values_row(
    const EmbedArgs *a, const Values *columns, int lane, float *out
) noexcept nogil:
    cdef int64_t k
    for k in range(a.n_cols):
        if Values is F16:
            put(a, out + k, half_to_float(columns[k].lanes[lane]))
        elif Values is BF16:
            put(a, out + k, bfloat_to_float(columns[k].lanes[lane]))
        else:
            put(a, out + k, columns[k].lanes[lane])


cdef inline void embed(
    const EmbedArgs *a, const Format *format, int part, int n_parts
) noexcept nogil:
    cdef Range mine = split(a.n_tokens[0], part, n_parts)
    cdef int64_t t, row
    cdef const uint8_t *group
    for t in range(mine.begin, mine.end):
        row = a.token_ids[t]
        group = a.weight + row // 16 * group_bytes(format, a.n_cols)
        if Format in Values:
            values_row(a, <const Format *>group, row % 16, a.out + t * a.n_cols)
        else:
            quants_row(a, format, group, row % 16, a.out + t * a.n_cols)


cdef void embed_q8_0(const void *args, int part, int n_parts) noexcept nogil:
    embed(<const EmbedArgs *>args, <const Q8_0 *>NULL, part, n_parts)


cdef void embed_q4_0(const void *args, int part, int n_parts) noexcept nogil:
    embed(<const EmbedArgs *>args, <const Q4_0 *>NULL, part, n_parts)


cdef void embed_q4_1(const void *args, int part, int n_parts) noexcept nogil:
    embed(<const EmbedArgs *>args, <const Q4_1 *>NULL, part, n_parts)


cdef void embed_q4_k(const void *args, int part, int n_parts) noexcept nogil:
    embed(<const EmbedArgs *>args, <const Q4_K *>NULL, part, n_parts)


cdef void embed_f32(const void *args, int part, int n_parts) noexcept nogil:
    embed(<const EmbedArgs *>args, <const F32 *>NULL, part, n_parts)


cdef void embed_f16(const void *args, int part, int n_parts) noexcept nogil:
    embed(<const EmbedArgs *>args, <const F16 *>NULL, part, n_parts)


cdef void embed_bf16(const void *args, int part, int n_parts) noexcept nogil:
    embed(<const EmbedArgs *>args, <const BF16 *>NULL, part, n_parts)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {
        "embed.q8_0": <size_t>&embed_q8_0,
        "embed.q4_0": <size_t>&embed_q4_0,
        "embed.q4_1": <size_t>&embed_q4_1,
        "embed.q4_k": <size_t>&embed_q4_k,
        "embed.f32": <size_t>&embed_f32,
        "embed.f16": <size_t>&embed_f16,
        "embed.bf16": <size_t>&embed_bf16,
    }
