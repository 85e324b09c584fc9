# $contract
# OP = "norm"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport NAN, fabsf, isfinite, rintf, sqrt
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


include "../quantize_block.pxi"


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const int32_t *rows
    const float *x
    const float *weight
    const float *bias
    float *out
    Q8Block *out_q8
    int64_t d_model
    double eps
    int64_t kind


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, i
    cdef const float *x
    cdef double mean, squares
    cdef float scale, centred
    cdef float y[32]
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        x = a.x + (t if a.rows == NULL else a.rows[t]) * a.d_model
        mean = squares = 0  # the mean of a layer norm; an RMS norm subtracts none
        if a.kind == 1:
            for i in range(a.d_model):
                mean += <double>x[i] / <double>a.d_model
        for i in range(a.d_model):
            centred = <float>(x[i] - mean)
            squares += <double>(centred * centred)
        scale = <float>(1.0 / sqrt(squares / <double>a.d_model + a.eps))
        for i in range(a.d_model):
            centred = <float>(x[i] - mean)
            y[i % 32] = centred * scale * a.weight[i] + (0 if a.bias == NULL else a.bias[i])
            if a.out != NULL:
                a.out[t * a.d_model + i] = y[i % 32]
            if a.out_q8 != NULL and i % 32 == 31:
                quantize_block(y, a.out_q8 + (t * a.d_model + i) // 32)


def kernels():
    return {"norm.f32": <size_t>&kernel}
