# $contract
# OP = "scale_logits"
# FORMATS = ("f32",)

# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport tanh
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
    const int64_t *n_tokens
    float *logits
    int64_t n_cols
    double scale
    double softcap


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
    cdef int64_t i, n_cols = a.n_cols
    cdef double y, scale = <float>a.scale, cap = <float>a.softcap
    # This part's share; the others run at the same time, on other threads.
    cdef int64_t n = a.n_tokens[0]
    for i in range(n * part // n_parts * n_cols, n * (part + 1) // n_parts * n_cols):
        y = scale * a.logits[i]
        if cap > 0:
            y = cap * tanh(y / cap)
        a.logits[i] = <float>y


def kernels():
    return {"scale_logits.f32": <size_t>&kernel}
