# $contract
# OP = "swiglu"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport NAN, exp, fabsf, isfinite, rintf
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


include "../quantize_block.pxi"


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    const float *gate_up
    float *out
    Q8Block *out_q8
    int64_t d_ff


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t t, i
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
            y[i % 32] = <float>(gate[i] / (1.0 + exp(-<double>gate[i])) * up[i])
            if a.out != NULL:
                a.out[t * a.d_ff + i] = y[i % 32]
            if a.out_q8 != NULL and i % 32 == 31:
                quantize_block(y, a.out_q8 + (t * a.d_ff + i) // 32)


def kernels():
    return {"swiglu.f32": <size_t>&kernel}
