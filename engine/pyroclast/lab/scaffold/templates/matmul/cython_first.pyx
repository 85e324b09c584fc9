# $contract
# OP = "matmul"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const float *x
    const float *weight
    const float *bias
    float *out
    int64_t n_rows
    int64_t n_cols
    int64_t out_stride
    int64_t accumulate


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t row, t, k
    cdef const float *weight
    cdef float *out
    cdef float total
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_rows
    for row in range(n * part // n_parts, n * (part + 1) // n_parts):
        # Weights are packed: 16 rows side by side, column after column (weights/packing.py).
        weight = a.weight + row // 16 * 16 * a.n_cols + row % 16
        for t in range(a.n_tokens[0]):
            total = 0
            for k in range(a.n_cols):
                total = total + weight[k * 16] * a.x[t * a.n_cols + k]
            if a.bias != NULL:
                total = total + a.bias[row]
            out = a.out + t * a.out_stride + row
            out[0] = out[0] + total if a.accumulate else total


def kernels():
    return {"matmul.f32": <size_t>&kernel}
