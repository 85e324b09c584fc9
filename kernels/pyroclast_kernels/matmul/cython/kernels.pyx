# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""matmul and pack in Cython.  See reference.py for the contracts, packed.pxd for the layout.

Block formats: an exact integer sum inside a block (block_dot.pxd), then one fused multiply-add of
the block's scale per row.  Plain values: one fused multiply-add per column, 16 rows in the lanes.

Loop order: panel of groups -> tile of tokens -> run of columns -> group -> block -> token.  A row's
sum over k has one order whatever the tile: from left to right, plain values in runs of 64 columns.
"""

from libc.math cimport fmaf
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from pyroclast_kernels.activation.cython.lanes cimport Bits, prefetch
from pyroclast_kernels.matmul.cython.block_dot cimport (
    Columns, Lanes, Scales, add_scaled, aligned_columns, dot, spread_block, unpack,
)
from pyroclast_kernels.matmul.cython.pack cimport PackArgs, pack
from pyroclast_kernels.matmul.cython.packed cimport (
    BF16, F16, F32, Format, Q4_0, Q4_1, Q4_K, Q8_0, Quants, Values,
    group_bytes, load_scales, quants_group_bytes, quants_of, values_group_bytes,
)
from pyroclast_kernels.native.abi cimport Q8Block, Range, halves_to_floats, split

cdef enum:
    TILE = 4  # tokens that share one unpacking of the weights
    PANEL = 32  # groups of 16 rows that share one layout of the activations
    SPREADS = 64  # blocks of activations laid out at a time: 33 KiB
    RUN = 64  # columns of plain values unpacked at a time: 4 KiB
    PANEL_BYTES = 512 * 1024  # of weights, read again for each tile: half of the smallest L2


cdef struct MatmulArgs:
    const int64_t *n_tokens
    const void *x
    const uint8_t *weight
    const float *bias
    float *out
    int64_t n_rows
    int64_t n_cols
    int64_t out_stride
    int64_t accumulate


cdef inline void add_blocks(
    const Quants *format, const uint8_t *group, int64_t first, const Columns *x,
    const Scales *x_scales, int n_tokens, int64_t n_blocks, int64_t ahead, float *acc
) noexcept nogil:
    """acc (n_tokens, 16) += a run of blocks of one group times x (n_tokens, n_blocks).  What lies
    `ahead` bytes on is fetched, if that is not 0."""
    cdef const Quants *quants
    cdef int16_t w[512]
    cdef float scale[16]
    cdef float minimum[16]
    cdef Lanes low, high
    cdef int64_t b, at
    cdef int m
    for b in range(n_blocks):
        quants = quants_of(format, group, first + b)
        load_scales(format, group, first + b, scale, minimum)
        if ahead > 0:
            for m in range(<int>sizeof(Quants) // 64):
                prefetch(<const uint8_t *>quants + ahead + 64 * m)
        unpack(quants, w)
        for m in range(n_tokens):
            at = m * n_blocks + b
            dot(quants, w, x[at].halves, &low, &high)
            add_scaled(quants, &low, &high, x_scales + at, scale, minimum, acc + 16 * m)


cdef inline void finish(
    const MatmulArgs *a, int64_t token, int64_t group, const float *acc
) noexcept nogil:
    """Bias, what is there already, and the rows that the last group lacks."""
    cdef int64_t row = 16 * group, n = min(<int64_t>16, a.n_rows - 16 * group)
    cdef float *out = a.out + token * a.out_stride + row
    cdef float y
    cdef int i
    for i in range(n):
        y = acc[i]
        if a.bias != NULL:
            y += a.bias[row + i]
        out[i] = out[i] + y if a.accumulate else y


cdef inline void block_tile(
    const MatmulArgs *a, const Quants *format, Range groups, int64_t token, int n_tokens
) noexcept nogil:
    cdef Columns storage[SPREADS + 1]
    cdef Columns *x = aligned_columns(storage)
    cdef Scales x_scales[SPREADS]
    cdef float acc[PANEL * TILE * 16]
    cdef int64_t n_blocks = a.n_cols // 32, size = quants_group_bytes(format, a.n_cols)
    cdef int64_t first = 0, n, g, b, at, run = SPREADS // n_tokens
    cdef const Q8Block *blocks = <const Q8Block *>a.x + token * n_blocks
    cdef int m
    memset(acc, 0, sizeof(acc))
    while first < n_blocks:
        n = min(run, n_blocks - first)
        for m in range(n_tokens):
            for b in range(n):
                at = m * n + b
                spread_block(format, blocks + m * n_blocks + first + b, x + at, x_scales + at)
        for g in range(groups.begin, groups.end):
            add_blocks(
                format, a.weight + g * size, first,
                x, x_scales, n_tokens, n, size if token == 0 and g + 1 < groups.end else 0,
                acc + (g - groups.begin) * TILE * 16,
            )
        first += n
    for g in range(groups.begin, groups.end):
        for m in range(n_tokens):
            finish(a, token + m, g, acc + ((g - groups.begin) * TILE + m) * 16)


# ---- plain values ---------------------------------------------------------------------------


cdef inline void add_columns(const float *w, const float *x, int64_t n, float *acc) noexcept nogil:
    """acc (16,) += sum over n columns of w (n, 16) * x (n,)."""
    cdef float lanes[16]
    cdef int64_t k
    cdef int i
    for i in range(16):
        lanes[i] = 0
    for k in range(n):
        # Two loops: GCC would unroll and jam a single one, which keeps the sums in memory.
        for i in range(8):
            lanes[i] = fmaf(w[16 * k + i], x[k], lanes[i])
        for i in range(8, 16):
            lanes[i] = fmaf(w[16 * k + i], x[k], lanes[i])
    for i in range(16):
        acc[i] += lanes[i]


cdef inline void add_columns_4(
    const float *w, const float *x, int64_t stride, int64_t n, float *acc
) noexcept nogil:
    """The same for four tokens, their x `stride` apart: one load of w for four products.  Two loops
    here, too."""
    cdef float lanes[64]
    cdef float y0, y1, y2, y3
    cdef int64_t k
    cdef int i
    for i in range(64):
        lanes[i] = 0
    for k in range(n):
        y0, y1, y2, y3 = x[k], x[stride + k], x[2 * stride + k], x[3 * stride + k]
        for i in range(16):
            lanes[i] = fmaf(w[16 * k + i], y0, lanes[i])
            lanes[16 + i] = fmaf(w[16 * k + i], y1, lanes[16 + i])
        for i in range(16):
            lanes[32 + i] = fmaf(w[16 * k + i], y2, lanes[32 + i])
            lanes[48 + i] = fmaf(w[16 * k + i], y3, lanes[48 + i])
    for i in range(64):
        acc[i] += lanes[i]


cdef inline const float *widen(const Values *columns, int64_t n, float *w) noexcept nogil:
    """n columns as float32: in w, or where they are."""
    cdef Bits bits
    cdef int64_t k
    cdef int i
    if Values is F32:
        return columns[0].lanes
    else:
        for k in range(n):
            if Values is F16:
                halves_to_floats(columns[k].lanes, w + 16 * k)
            else:
                for i in range(16):
                    bits.as_int = <uint32_t>columns[k].lanes[i] << 16
                    w[16 * k + i] = bits.as_float
        return w


cdef inline void value_tile(
    const MatmulArgs *a, const Values *format, Range groups, int64_t token, int n_tokens
) noexcept nogil:
    cdef float w[RUN * 16]
    cdef float acc[TILE * 16]
    cdef int64_t size = values_group_bytes(format, a.n_cols), g, first, n
    cdef const float *x = <const float *>a.x + token * a.n_cols
    cdef const Values *columns
    cdef const float *wide
    cdef int m
    for g in range(groups.begin, groups.end):
        columns = <const Values *>(a.weight + g * size)
        memset(acc, 0, sizeof(acc))
        first = 0
        while first < a.n_cols:
            n = min(<int64_t>RUN, a.n_cols - first)
            wide = widen(columns + first, n, w)
            if n_tokens == TILE:
                add_columns_4(wide, x + first, a.n_cols, n, acc)
            else:
                for m in range(n_tokens):
                    add_columns(wide, x + m * a.n_cols + first, n, acc + 16 * m)
            first += n
        for m in range(n_tokens):
            finish(a, token + m, g, acc + 16 * m)


cdef inline void matmul(
    const MatmulArgs *a, const Format *format, int part, int n_parts
) noexcept nogil:
    cdef Range mine = split((a.n_rows + 15) // 16, part, n_parts), groups
    cdef int64_t n_tokens = a.n_tokens[0], token
    cdef int64_t panel = PANEL_BYTES // group_bytes(format, a.n_cols)
    panel = max(<int64_t>1, min(panel, <int64_t>PANEL))
    groups.begin = mine.begin
    while groups.begin < mine.end:
        groups.end = min(groups.begin + panel, mine.end)
        token = 0
        while token < n_tokens:
            if Format in Values:
                value_tile(a, format, groups, token, min(<int64_t>TILE, n_tokens - token))
            else:
                block_tile(a, format, groups, token, min(<int64_t>TILE, n_tokens - token))
            token += TILE
        groups.begin = groups.end

# ---- what the registry asks for ---------------------------------------------------------------


cdef void matmul_q8_0(const void *args, int part, int n_parts) noexcept nogil:
    matmul(<const MatmulArgs *>args, <const Q8_0 *>NULL, part, n_parts)


cdef void pack_q8_0(const void *args, int part, int n_parts) noexcept nogil:
    pack(<const PackArgs *>args, <const Q8_0 *>NULL, part, n_parts)


cdef void matmul_q4_0(const void *args, int part, int n_parts) noexcept nogil:
    matmul(<const MatmulArgs *>args, <const Q4_0 *>NULL, part, n_parts)


cdef void pack_q4_0(const void *args, int part, int n_parts) noexcept nogil:
    pack(<const PackArgs *>args, <const Q4_0 *>NULL, part, n_parts)


cdef void matmul_q4_1(const void *args, int part, int n_parts) noexcept nogil:
    matmul(<const MatmulArgs *>args, <const Q4_1 *>NULL, part, n_parts)


cdef void pack_q4_1(const void *args, int part, int n_parts) noexcept nogil:
    pack(<const PackArgs *>args, <const Q4_1 *>NULL, part, n_parts)


cdef void matmul_q4_k(const void *args, int part, int n_parts) noexcept nogil:
    matmul(<const MatmulArgs *>args, <const Q4_K *>NULL, part, n_parts)


cdef void pack_q4_k(const void *args, int part, int n_parts) noexcept nogil:
    pack(<const PackArgs *>args, <const Q4_K *>NULL, part, n_parts)


cdef void matmul_f32(const void *args, int part, int n_parts) noexcept nogil:
    matmul(<const MatmulArgs *>args, <const F32 *>NULL, part, n_parts)


cdef void pack_f32(const void *args, int part, int n_parts) noexcept nogil:
    pack(<const PackArgs *>args, <const F32 *>NULL, part, n_parts)


cdef void matmul_f16(const void *args, int part, int n_parts) noexcept nogil:
    matmul(<const MatmulArgs *>args, <const F16 *>NULL, part, n_parts)


cdef void pack_f16(const void *args, int part, int n_parts) noexcept nogil:
    pack(<const PackArgs *>args, <const F16 *>NULL, part, n_parts)


cdef void matmul_bf16(const void *args, int part, int n_parts) noexcept nogil:
    matmul(<const MatmulArgs *>args, <const BF16 *>NULL, part, n_parts)


cdef void pack_bf16(const void *args, int part, int n_parts) noexcept nogil:
    pack(<const PackArgs *>args, <const BF16 *>NULL, part, n_parts)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {
        "matmul.q8_0": <size_t>&matmul_q8_0,
        "matmul.q4_0": <size_t>&matmul_q4_0,
        "matmul.q4_1": <size_t>&matmul_q4_1,
        "matmul.q4_k": <size_t>&matmul_q4_k,
        "matmul.f32": <size_t>&matmul_f32,
        "matmul.f16": <size_t>&matmul_f16,
        "matmul.bf16": <size_t>&matmul_bf16,
        "pack.q8_0": <size_t>&pack_q8_0,
        "pack.q4_0": <size_t>&pack_q4_0,
        "pack.q4_1": <size_t>&pack_q4_1,
        "pack.q4_k": <size_t>&pack_q4_k,
        "pack.f32": <size_t>&pack_f32,
        "pack.f16": <size_t>&pack_f16,
        "pack.bf16": <size_t>&pack_bf16,
    }
