# $contract
# OP = "softmax"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport INFINITY, NAN, exp, isinf, isnan, log as ln
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const float *logits
    const int64_t *n_rows
    const double *temperatures
    const float *bias
    const uint32_t *allowed
    float *out
    int64_t n_cols
    int64_t logits_stride
    int64_t out_stride
    int64_t log


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t r, i, at
    cdef const float *logits
    cdef const uint32_t *allowed
    cdef float *out
    cdef double temperature, total, x
    cdef float z, best
    cdef bint is_bad
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_rows[0]
    for r in range(n * part // n_parts, n * (part + 1) // n_parts):
        logits = a.logits + r * a.logits_stride
        out = a.out + r * a.out_stride
        temperature = 1.0 if a.temperatures == NULL else a.temperatures[r]
        allowed = a.allowed
        if allowed != NULL:
            allowed += r * ((a.n_cols + 31) // 32)
        best = -INFINITY
        at = 0
        is_bad = False
        for i in range(a.n_cols):  # out may be logits itself
            z = logits[i]
            if a.bias != NULL:
                z = z + a.bias[i]
            if allowed != NULL and not (allowed[i // 32] >> (i % 32)) & 1:
                z = -INFINITY
            out[i] = z
            is_bad = is_bad or isnan(z)
            if z > best:
                best = z
                at = i
        if is_bad or isinf(best):  # a NaN, a +inf, or nothing finite
            for i in range(a.n_cols):
                out[i] = NAN
        elif temperature < 1e-5:
            for i in range(a.n_cols):
                out[i] = (0 if i == at else -INFINITY) if a.log else (1 if i == at else 0)
        else:
            total = 0
            for i in range(a.n_cols):
                total += exp((<double>out[i] - best) / temperature)
            for i in range(a.n_cols):
                x = (<double>out[i] - best) / temperature
                out[i] = <float>(x - ln(total) if a.log else exp(x) / total)


def kernels():
    return {"softmax.f32": <size_t>&kernel}
