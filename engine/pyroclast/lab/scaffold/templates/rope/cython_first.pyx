# $contract
# OP = "rope"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport log
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const int32_t *positions
    const int32_t *seq_index
    const int32_t *block_tables
    const float *table
    float *qkv
    float *k_cache
    float *v_cache
    int64_t n_heads
    int64_t n_kv_heads
    int64_t head_dim
    int64_t rotary_dim
    int64_t block_size
    int64_t max_blocks
    int64_t value_stride
    double temperature
    int64_t temperature_length


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, h, i, half = a.rotary_dim // 2, position, slot, block, head
    cdef float *q
    cdef float *low
    cdef const float *cosine
    cdef float x, y, growth
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        q = a.qkv + t * (a.n_heads + 2 * a.n_kv_heads) * a.head_dim
        cosine = a.table + t * 2 * half
        for h in range(a.n_heads + a.n_kv_heads):
            low = q + h * a.head_dim
            for i in range(half):
                x, y = low[i], low[half + i]
                low[i] = x * cosine[i] - y * cosine[half + i]
                low[half + i] = y * cosine[i] + x * cosine[half + i]
        position = a.positions[t]
        if a.temperature > 0:
            growth = 1 + a.temperature * log(<double>(1 + position // a.temperature_length))
            for i in range(a.n_heads * a.head_dim):
                q[i] *= growth
        slot = position % a.block_size
        block = a.block_tables[a.seq_index[t] * a.max_blocks + position // a.block_size]
        low = q + a.n_heads * a.head_dim
        for h in range(a.n_kv_heads):
            head = block * a.n_kv_heads + h
            for i in range(a.head_dim):
                a.k_cache[(head * a.head_dim + i) * a.block_size + slot] = low[h * a.head_dim + i]
                a.v_cache[(head * a.block_size + slot) * a.value_stride + i] = (
                    low[(a.n_kv_heads + h) * a.head_dim + i]
                )


def kernels():
    return {"rope.f32": <size_t>&kernel}
