# $contract
# OP = "pack"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const float *raw
    float *weight
    int64_t n_rows
    int64_t n_cols
    int64_t row_offset


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t row, at, k
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_rows
    for row in range(n * part // n_parts, n * (part + 1) // n_parts):
        at = row + a.row_offset
        for k in range(a.n_cols):
            a.weight[(at // 16 * a.n_cols + k) * 16 + at % 16] = a.raw[row * a.n_cols + k]


def kernels():
    return {"pack.f32": <size_t>&kernel}
