# $contract
# OP = "glu"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport NAN, erfc, exp, fabsf, isfinite, rintf
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


include "../quantize_block.pxi"


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const float *gate_up
    float *out
    Q8Block *out_q8
    int64_t d_ff
    int64_t activation
    int64_t gated


cdef double activated(int64_t activation, double g) noexcept nogil:
    # In float64 no exponential of a float32 that matters overflows.
    cdef double u = 0.7978845608028654 * g * (1 + 0.044715 * g * g)
    cdef double positive = 0 if g < 0 else g
    if activation == 0:
        return g / (1 + exp(-g))
    if activation == 1:
        return g / (1 + exp(-2 * u))
    if activation == 2:
        return g / 2 * erfc(-g * 0.7071067811865476)
    return positive if activation == 3 else positive * positive


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, i
    cdef const float *gate
    cdef const float *up
    cdef float y[32]
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        gate = a.gate_up + t * (2 if a.gated else 1) * a.d_ff
        up = gate + a.d_ff
        for i in range(a.d_ff):
            y[i % 32] = <float>activated(a.activation, gate[i])
            if a.gated:
                y[i % 32] = y[i % 32] * up[i]
            if a.out != NULL:
                a.out[t * a.d_ff + i] = y[i % 32]
            if a.out_q8 != NULL and i % 32 == 31:
                quantize_block(y, a.out_q8 + (t * a.d_ff + i) // 32)


def kernels():
    return {"glu.f32": <size_t>&kernel}
