# $contract
# OP = "attention"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport INFINITY, NAN, exp, fabsf, isfinite, rintf, tanh
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


include "../quantize_block.pxi"


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const int64_t *n_seqs
    const int32_t *seq_starts
    const int32_t *positions
    const int32_t *block_tables
    const float *qkv
    const float *k_cache
    const float *v_cache
    float *out
    Q8Block *out_q8
    float *scratch
    int32_t *counters
    int64_t n_heads
    int64_t n_kv_heads
    int64_t head_dim
    int64_t block_size
    int64_t max_blocks
    int64_t value_stride
    int64_t window
    double scale
    double softcap
    const float *sinks
    int64_t max_splits
    int64_t max_split_tokens


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t item, t, h, kv, s, end, first, p, i, slot, head
    cdef const float *q
    cdef const float *k
    cdef const float *v
    cdef double best, total, score, higher, shrink, w
    cdef double sums[512]
    cdef float y[512]
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0] * a.n_heads
    for item in range(n * part // n_parts, n * (part + 1) // n_parts):
        t, h = item // a.n_heads, item % a.n_heads
        kv = h * a.n_kv_heads // a.n_heads
        s = 0
        while a.seq_starts[s + 1] <= t:
            s += 1
        end = <int64_t>a.positions[t] + 1
        first = end - a.window if a.window > 0 and end > a.window else 0
        q = a.qkv + (t * (a.n_heads + 2 * a.n_kv_heads) + h) * a.head_dim
        best, total = -INFINITY, 0
        if a.sinks != NULL:  # a score without a value
            best, total = a.sinks[h], 1
        for i in range(a.head_dim):
            sums[i] = 0
        for p in range(first, end):  # one pass: rescaled when the maximum rises
            slot = p % a.block_size
            head = a.block_tables[s * a.max_blocks + p // a.block_size]
            head = head * a.n_kv_heads + kv
            k = a.k_cache + head * a.head_dim * a.block_size + slot
            v = a.v_cache + (head * a.block_size + slot) * a.value_stride
            score = 0
            for i in range(a.head_dim):
                score += <double>q[i] * k[i * a.block_size]
            score *= a.scale
            if a.softcap > 0:
                score = a.softcap * tanh(score / a.softcap)
            higher = score if score > best else best
            shrink, w = exp(best - higher), exp(score - higher)
            best = higher
            total = total * shrink + w
            for i in range(a.head_dim):
                sums[i] = sums[i] * shrink + w * v[i]
        for i in range(a.head_dim):
            y[i] = <float>(sums[i] / total)
            if a.out != NULL:
                a.out[item * a.head_dim + i] = y[i]
        if a.out_q8 != NULL:
            for i in range(0, a.head_dim, 32):
                quantize_block(y + i, a.out_q8 + (item * a.head_dim + i) // 32)


def kernels():
    return {"attention.f32": <size_t>&kernel}
