# $contract
# OP = "qk_norm"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport sqrt
from libc.stdint cimport int64_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    float *qkv
    const float *q_weight
    const float *k_weight
    const float *v_weight
    int64_t n_heads
    int64_t n_kv_heads
    int64_t head_dim
    double eps
    int64_t whole


cdef void norm_in_place(
    float *x, const float *weight, int64_t n_columns, int64_t width, double eps
) noexcept nogil:
    """n_columns of one token, `width` of them at a time."""
    cdef int64_t first = 0, i
    cdef double squares
    cdef float scale
    while first < n_columns:
        squares = 0
        for i in range(first, first + width):
            squares += <double>(x[i] * x[i])
        scale = <float>(1.0 / sqrt(squares / <double>width + eps))
        for i in range(width):
            x[first + i] = x[first + i] * scale * weight[i]
        first += width


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, q_dim = a.n_heads * a.head_dim, k_dim = a.n_kv_heads * a.head_dim
    cdef float *q
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        q = a.qkv + t * (q_dim + 2 * k_dim)
        norm_in_place(q, a.q_weight, q_dim, q_dim if a.whole else a.head_dim, a.eps)
        norm_in_place(q + q_dim, a.k_weight, k_dim, k_dim if a.whole else a.head_dim, a.eps)
        if a.v_weight != NULL:
            norm_in_place(q + q_dim + k_dim, a.v_weight, k_dim, a.head_dim, a.eps)


def kernels():
    return {"qk_norm.f32": <size_t>&kernel}
