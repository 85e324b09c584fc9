# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""residual in Cython: x[t] += scale * N(y[t]), N being nothing, an RMS norm or a layer norm; then
x[t] *= x_scale.

See reference.py for the contract.  One token per item; what is added is computed 512 columns at a
time.
"""

from libc.stdint cimport int64_t

from pyroclast_kernels.native.abi cimport Range, split
from pyroclast_kernels.norm.cython_rows cimport RowNorm, norm_of_row, normed

cdef enum:
    RUN = 512


cdef struct ResidualArgs:
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


cdef inline void add(
    const ResidualArgs *a, float *x, const float *added, int64_t n
) noexcept nogil:
    """x times 1 is x to the bit."""
    cdef float scale = <float>a.scale, x_scale = 1 if a.x_scale is NULL else a.x_scale[0]
    cdef int64_t i
    for i in range(n):
        x[i] = (x[i] + scale * added[i]) * x_scale


cdef void add_normed(const ResidualArgs *a, float *x, const float *y) noexcept nogil:
    cdef float added[RUN]
    cdef RowNorm row = norm_of_row(y, a.d_model, <float>a.eps, a.kind)
    cdef const float *bias
    cdef int64_t i = 0, n
    while i < a.d_model:
        n = min(<int64_t>RUN, a.d_model - i)
        bias = a.bias if a.bias == NULL else a.bias + i
        normed(row, y + i, a.weight + i, bias, n, added)
        add(a, x + i, added, n)
        i += n


cdef void residual(const void *args, int part, int n_parts) noexcept nogil:
    cdef const ResidualArgs *a = <const ResidualArgs *>args
    cdef Range mine = split(a.n_tokens[0], part, n_parts)
    cdef int64_t t
    for t in range(mine.begin, mine.end):
        if a.kind < 0:
            add(a, a.x + t * a.d_model, a.y + t * a.d_model, a.d_model)
        else:
            add_normed(a, a.x + t * a.d_model, a.y + t * a.d_model)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"residual.f32": <size_t>&residual}
