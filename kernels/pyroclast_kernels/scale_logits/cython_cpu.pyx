# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""scale_logits in Cython: logits times a factor, then softcap * tanh(logits / softcap), in place.

Items are blocks of 1024 columns of a row, so that one row's work can be shared by threads.
"""

from libc.stdint cimport int64_t

from pyroclast_kernels.activation.cython.lanes cimport tanh_lane
from pyroclast_kernels.native.abi cimport Range, split

cdef enum:
    BLOCK = 1024


cdef struct ScaleLogitsArgs:
    const int64_t *n_tokens
    float *logits
    int64_t n_cols
    double scale
    double softcap


cdef void scale_logits(const void *args, int part, int n_parts) noexcept nogil:
    cdef const ScaleLogitsArgs *a = <const ScaleLogitsArgs *>args
    cdef int64_t blocks = (a.n_cols + BLOCK - 1) // BLOCK
    cdef Range mine = split(a.n_tokens[0] * blocks, part, n_parts)
    cdef float scale = <float>a.scale, cap = <float>a.softcap
    cdef float *row
    cdef int64_t item, column, n, i
    for item in range(mine.begin, mine.end):
        column = item % blocks * BLOCK
        n = min(<int64_t>BLOCK, a.n_cols - column)
        row = a.logits + item // blocks * a.n_cols + column
        for i in range(n):
            row[i] = row[i] * scale
        if a.softcap > 0:
            for i in range(n):
                row[i] = cap * tanh_lane(row[i] / cap)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"scale_logits.f32": <size_t>&scale_logits}
