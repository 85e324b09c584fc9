# $contract
# OP = "quantize"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport NAN, fabsf, isfinite, rintf
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


include "../quantize_block.pxi"


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const float *x
    Q8Block *out_q8
    int64_t n_cols


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, i
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        for i in range(0, a.n_cols, 32):
            quantize_block(a.x + t * a.n_cols + i, a.out_q8 + (t * a.n_cols + i) // 32)


def kernels():
    return {"quantize.f32": <size_t>&kernel}
