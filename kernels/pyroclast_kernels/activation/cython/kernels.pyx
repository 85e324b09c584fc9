# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""quantize in Cython: float32 activations to 8-bit blocks of 32; and glu:
out[t, i] = f(gate[t, i]) * up[t, i], or f(gate[t, i]) where there is no up, f one of ACTIVATIONS.

See reference.py for the contracts.  Items are blocks of 32 columns of a token, so that one token's
work can be shared by several threads; the last block of a row may be short.
"""

from libc.stdint cimport int64_t

from pyroclast_kernels.activation.cython.lanes cimport (
    gelu_lane, gelu_tanh_lane, quantize_row, relu_lane, silu_lane,
)
from pyroclast_kernels.native.abi cimport Q8Block, Range, split

cdef enum:
    RUN = 512  # columns that are quantized while they are in the L1 cache
    SILU = 0  # of ACTIVATIONS
    GELU_TANH = 1
    GELU = 2
    RELU = 3


cdef struct QuantizeArgs:
    const int64_t *n_tokens
    const float *x
    Q8Block *out_q8
    int64_t n_cols


cdef struct GluArgs:
    const int64_t *n_tokens
    const float *gate_up
    float *out
    Q8Block *out_q8
    int64_t d_ff
    int64_t activation
    int64_t gated


cdef void quantize(const void *args, int part, int n_parts) noexcept nogil:
    cdef const QuantizeArgs *a = <const QuantizeArgs *>args
    cdef Range mine = split(a.n_tokens[0] * (a.n_cols // 32), part, n_parts)
    quantize_row(a.x + 32 * mine.begin, 32 * (mine.end - mine.begin), a.out_q8 + mine.begin)


cdef inline void gated(
    int64_t activation, const float *gate, const float *up, int64_t n, float *out
) noexcept nogil:
    """A loop for each function: GCC vectorizes none that chooses inside."""
    cdef int64_t i
    if activation == SILU:
        for i in range(n):
            out[i] = silu_lane(gate[i]) * up[i]
    elif activation == GELU_TANH:
        for i in range(n):
            out[i] = gelu_tanh_lane(gate[i]) * up[i]
    elif activation == GELU:
        for i in range(n):
            out[i] = gelu_lane(gate[i]) * up[i]
    elif activation == RELU:
        for i in range(n):
            out[i] = relu_lane(gate[i]) * up[i]
    else:
        for i in range(n):
            out[i] = relu_lane(gate[i]) * relu_lane(gate[i]) * up[i]


cdef inline void activated(
    int64_t activation, const float *gate, int64_t n, float *out
) noexcept nogil:
    """As gated, without up."""
    cdef int64_t i
    if activation == SILU:
        for i in range(n):
            out[i] = silu_lane(gate[i])
    elif activation == GELU_TANH:
        for i in range(n):
            out[i] = gelu_tanh_lane(gate[i])
    elif activation == GELU:
        for i in range(n):
            out[i] = gelu_lane(gate[i])
    elif activation == RELU:
        for i in range(n):
            out[i] = relu_lane(gate[i])
    else:
        for i in range(n):
            out[i] = relu_lane(gate[i]) * relu_lane(gate[i])


cdef void glu(const void *args, int part, int n_parts) noexcept nogil:
    cdef const GluArgs *a = <const GluArgs *>args
    cdef int64_t blocks = (a.d_ff + 31) // 32
    cdef Range mine = split(a.n_tokens[0] * blocks, part, n_parts)
    cdef float y[RUN]
    cdef const float *gate
    cdef float *out
    cdef int64_t item = mine.begin, t, column, n_blocks, n
    while item < mine.end:
        t, column = item // blocks, item % blocks * 32
        n_blocks = min(<int64_t>RUN // 32, blocks - column // 32, mine.end - item)
        n = min(32 * n_blocks, a.d_ff - column)
        gate = a.gate_up + t * (2 if a.gated else 1) * a.d_ff + column
        out = <float *>y if a.out == NULL else a.out + t * a.d_ff + column
        if a.gated:
            gated(a.activation, gate, gate + a.d_ff, n, out)
        else:
            activated(a.activation, gate, n, out)
        if a.out_q8 != NULL:
            quantize_row(out, n, a.out_q8 + item)
        item += n_blocks


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"quantize.f32": <size_t>&quantize, "glu.f32": <size_t>&glu}
