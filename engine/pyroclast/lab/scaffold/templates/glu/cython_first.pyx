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


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, i
    cdef double g, u, f
    cdef const float *gate
    cdef const float *up
    cdef float y[32]
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for t in range(n * part // n_parts, n * (part + 1) // n_parts):
        gate = a.gate_up + t * 2 * a.d_ff
        up = gate + a.d_ff
        for i in range(a.d_ff):
            # In float64 no exponential of a float32 that matters overflows.
            g = gate[i]
            u = 0.7978845608028654 * g * (1 + 0.044715 * g * g)
            if a.activation == 2:
                f = g / 2 * erfc(-g * 0.7071067811865476)
            else:
                f = g / (1 + exp(-g if a.activation == 0 else -2 * u))
            y[i % 32] = <float>f * up[i]
            if a.out != NULL:
                a.out[t * a.d_ff + i] = y[i % 32]
            if a.out_q8 != NULL and i % 32 == 31:
                quantize_block(y, a.out_q8 + (t * a.d_ff + i) // 32)


def kernels():
    return {"glu.f32": <size_t>&kernel}
