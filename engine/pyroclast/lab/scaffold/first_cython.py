"""First correct loops in Cython, one for each op."""

from __future__ import annotations

from pyroclast.lab.scaffold.first_cpp import c_type
from pyroclast.lab.scaffold.first_cython_rest import BY_TOKEN, MINE, REST
from pyroclast_kernels.registry import get_op

_HEAD = """
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.math cimport {math}
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t


{helpers}# One field of 8 bytes for each parameter of the reference, in its order.
cdef struct Args:
{fields}


cdef void kernel(const void *args, int part, int n_parts) noexcept nogil:
    cdef const Args *a = <const Args *>args
{loop}

def kernels():
    return {{"{op}.{format}": <size_t>&kernel}}
"""

_QUANTIZE = """\
# A block of activations in 8 bits, as pyroclast_kernels/activations.py lays it out.
cdef struct Q8Block:
    float scale
    float sum_scaled
    int32_t minus_8_sum
    int32_t minus_128_sum
    int8_t values[32]
    float half_scaled[2]
    int32_t minus_4_half_sum[2]


cdef void quantize_block(const float *y, Q8Block *out) noexcept nogil:
    cdef float largest = 0, inverse = 0, most = 127
    cdef bint finite = True
    cdef int i, q
    cdef int sums[2]
    for i in range(32):
        if not isfinite(y[i]):
            finite = False
        elif fabsf(y[i]) > largest:
            largest = fabsf(y[i])
    if largest > 0:
        inverse = most / largest
    sums[0] = sums[1] = 0
    for i in range(32):
        q = <int>rintf(y[i] * inverse) if isfinite(y[i]) else 0
        out.values[i] = <int8_t>q
        sums[i // 16] += q
    out.scale = largest / most if finite else NAN
    out.sum_scaled = out.scale * <float>(sums[0] + sums[1])
    out.minus_8_sum = -8 * (sums[0] + sums[1])
    out.minus_128_sum = -128 * (sums[0] + sums[1])
    for i in range(2):
        out.half_scaled[i] = out.scale * <float>sums[i]
        out.minus_4_half_sum[i] = -4 * sums[i]


"""

# op -> (does it need QUANTIZE, what it takes from libc.math, the kernel's body)
LOOPS: dict[str, tuple[bool, str, str]] = {
    "softmax": (
        False,
        "INFINITY, NAN, exp, isinf, isnan, log as ln",
        """\
    cdef int64_t r, i, at
    cdef const float *logits
    cdef const uint32_t *allowed
    cdef float *out
    cdef double temperature, total, x
    cdef float z, best
    cdef bint is_bad
"""
        + MINE.format(n="a.n_rows[0]", item="r")
        + """\
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
""",
    ),
    "norm": (
        True,
        "NAN, fabsf, isfinite, rintf, sqrt",
        """\
    cdef int64_t t, i
    cdef const float *x
    cdef double squares
    cdef float scale
    cdef float y[32]
"""
        + BY_TOKEN
        + """\
        x = a.x + (t if a.rows == NULL else a.rows[t]) * a.d_model
        squares = 0
        for i in range(a.d_model):
            squares += <double>(x[i] * x[i])
        scale = <float>(1.0 / sqrt(squares / <double>a.d_model + a.eps))
        for i in range(a.d_model):
            y[i % 32] = x[i] * scale * a.weight[i]
            if a.out != NULL:
                a.out[t * a.d_model + i] = y[i % 32]
            if a.out_q8 != NULL and i % 32 == 31:
                quantize_block(y, a.out_q8 + (t * a.d_model + i) // 32)
""",
    ),
    "glu": (
        True,
        "NAN, erfc, exp, fabsf, isfinite, rintf",
        """\
    cdef int64_t t, i
    cdef double g, u, f
    cdef const float *gate
    cdef const float *up
    cdef float y[32]
"""
        + BY_TOKEN
        + """\
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
""",
    ),
    "rope": (
        False,
        "",
        """\
    cdef int64_t t, h, i, half = a.head_dim // 2, position, slot, block, head
    cdef float *q
    cdef float *low
    cdef const float *cosine
    cdef float x, y
"""
        + BY_TOKEN
        + """\
        q = a.qkv + t * (a.n_heads + 2 * a.n_kv_heads) * a.head_dim
        cosine = a.table + t * 2 * half
        for h in range(a.n_heads + a.n_kv_heads):
            low = q + h * a.head_dim
            for i in range(half):
                x, y = low[i], low[half + i]
                low[i] = x * cosine[i] - y * cosine[half + i]
                low[half + i] = y * cosine[i] + x * cosine[half + i]
        position = a.positions[t]
        slot = position % a.block_size
        block = a.block_tables[a.seq_index[t] * a.max_blocks + position // a.block_size]
        low = q + a.n_heads * a.head_dim
        for h in range(a.n_kv_heads):
            head = block * a.n_kv_heads + h
            for i in range(a.head_dim):
                a.k_cache[(head * a.head_dim + i) * a.block_size + slot] = low[h * a.head_dim + i]
                a.v_cache[(head * a.block_size + slot) * a.value_stride + i] = (
                    low[(a.n_kv_heads + h) * a.head_dim + i]
                )
""",
    ),
    "matmul": (
        False,
        "",
        """\
    cdef int64_t row, t, k
    cdef const float *weight
    cdef float *out
    cdef float total
"""
        + MINE.format(n="a.n_rows", item="row")
        + """\
        # Weights are packed: 16 rows side by side, column after column (weights/packing.py).
        weight = a.weight + row // 16 * 16 * a.n_cols + row % 16
        for t in range(a.n_tokens[0]):
            total = 0
            for k in range(a.n_cols):
                total = total + weight[k * 16] * a.x[t * a.n_cols + k]
            if a.bias != NULL:
                total = total + a.bias[row]
            out = a.out + t * a.out_stride + row
            out[0] = out[0] + total if a.accumulate else total
""",
    ),
    **REST,
}


def body(op: str, format: str) -> str:
    """The file below its head."""
    quantizes, math, loop = LOOPS[op]
    fields = "\n".join(f"    {c_type(op, name)}{name}" for name in get_op(op).parameters)
    helpers = _QUANTIZE if quantizes else ""
    # `from libc.math cimport` of a loop that computes without it would be a dead line.
    head = _HEAD if math else _HEAD.replace("from libc.math cimport {math}\n", "")
    return head.format(math=math, helpers=helpers, fields=fields, loop=loop, op=op, format=format)
