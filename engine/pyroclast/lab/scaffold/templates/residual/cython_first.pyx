# $contract
# OP = "residual"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport sqrt
from libc.stdint cimport int64_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    float *x
    const float *y
    const float *weight
    const float *bias
    const float *x_scale
    int64_t d_model
    double eps
    int64_t kind
    double scale


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, i
    cdef float *x
    cdef const float *y
    cdef double mean, squares
    cdef float inverse, value, scale = <float>a.scale
    cdef float x_scale = a.x_scale[0] if a.x_scale != NULL else 1
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        x, y = a.x + t * a.d_model, a.y + t * a.d_model
        mean = squares = 0  # the mean of a layer norm; an RMS norm subtracts none
        if a.kind == 1:
            for i in range(a.d_model):
                mean += <double>y[i] / <double>a.d_model
        for i in range(a.d_model):
            value = <float>(y[i] - mean)
            squares += <double>(value * value)
        inverse = <float>(1.0 / sqrt(squares / <double>a.d_model + a.eps))
        for i in range(a.d_model):
            value = y[i]
            if a.kind >= 0:
                value = <float>(y[i] - mean) * inverse * a.weight[i]
                if a.bias != NULL:
                    value += a.bias[i]
            x[i] = (x[i] + scale * value) * x_scale


def kernels():
    return {"residual.f32": <size_t>&kernel}
