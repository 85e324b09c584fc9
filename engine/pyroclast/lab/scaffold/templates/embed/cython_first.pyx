# $contract
# OP = "embed"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const int32_t *token_ids
    const float *weight
    float *out
    int64_t n_cols
    double scale
    int64_t accumulate


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, k, row
    cdef float value
    cdef const float *weight
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        # Packed: 16 rows side by side, column after column (weights/packing.py).
        row = a.token_ids[t]
        weight = a.weight + row // 16 * 16 * a.n_cols + row % 16
        for k in range(a.n_cols):
            value = <float>a.scale * weight[k * 16]
            if a.accumulate:
                value = a.out[t * a.n_cols + k] + value
            a.out[t * a.n_cols + k] = value


def kernels():
    return {"embed.f32": <size_t>&kernel}
