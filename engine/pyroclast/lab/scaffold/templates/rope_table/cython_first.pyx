# $contract
# OP = "rope_table"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport cos, sin
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const int32_t *positions
    const float *inv_freq
    float *out
    int64_t half_dim
    double amplitude


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, i
    cdef float *cosine
    cdef double angle
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        cosine = a.out + t * 2 * a.half_dim
        for i in range(a.half_dim):
            angle = <double>(<float>a.positions[t] * a.inv_freq[i])
            cosine[i] = <float>(a.amplitude * cos(angle))
            cosine[a.half_dim + i] = <float>(a.amplitude * sin(angle))


def kernels():
    return {"rope_table.f32": <size_t>&kernel}
