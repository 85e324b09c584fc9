# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# A tile of query rows, and how 32 positions of the cache reach it as float32.
from libc.stdint cimport int32_t, int64_t

from pyroclast_kernels.activation.cython.lanes cimport prefetch
from pyroclast_kernels.attention.cython.steps cimport MAX_HEAD_DIM, STEP
from pyroclast_kernels.native.abi cimport Cell, Q8Block, cell_to_float, load_cells

cdef enum:
    SPLIT = 512
    MAX_ROWS = 32  # query rows of a tile: their scores of a split are 66 KiB
    STRIDE = SPLIT + 16  # of scores: 2048 bytes apart, rows would share few sets of the L1 cache


cdef struct AttentionArgs:
    const int64_t *n_tokens
    const int64_t *n_seqs
    const int32_t *seq_starts
    const int32_t *positions
    const int32_t *block_tables
    const float *qkv
    const void *k_cache
    const void *v_cache
    float *out
    Q8Block *out_q8
    float *scratch
    int32_t *counters
    int64_t n_heads
    int64_t n_kv_heads
    int64_t head_dim
    int64_t block_size
    int64_t max_blocks
    int64_t value_stride
    int64_t window
    double scale
    double softcap
    const float *sinks
    int64_t max_splits
    int64_t max_split_tokens


# One query row: its query, the positions [first, end) that it sees, and its softmax so far.
cdef struct Row:
    const float *q
    int64_t token
    int64_t head
    int64_t first
    int64_t end
    float maximum
    float sum


cdef struct Tile:
    int n_rows
    Row rows[MAX_ROWS]
    const int32_t *block_table
    int64_t kv_head
    float scores[MAX_ROWS * STRIDE]
    float values[MAX_ROWS * MAX_HEAD_DIM]  # of this split
    float merged[MAX_ROWS * MAX_HEAD_DIM]  # of the splits so far
    float cells[MAX_HEAD_DIM * STEP]  # keys (head_dim, STEP) or values (STEP, width)


# ---- the cache, 32 positions at a time --------------------------------------------------------


cdef inline int64_t block_of(
    const AttentionArgs *a, const Tile *tile, int64_t position
) noexcept nogil:
    """Which (block, kv head) of the cache."""
    return tile.block_table[position // a.block_size] * a.n_kv_heads + tile.kv_head


cdef inline void load_keys(
    const AttentionArgs *a, const Cell *cache, Tile *tile, int64_t position, int64_t end
) noexcept nogil:
    """cells (head_dim, STEP) = keys of the next STEP positions before `end`; what lies beyond them
    is not to be used.  Those of the step after are fetched, or of this one again."""
    cdef int64_t i = 0, n = min(<int64_t>STEP, end - position), d, slot, bs = a.block_size
    cdef int64_t ahead = STEP if position + 2 * STEP <= end else 0
    cdef const Cell *keys
    cdef const Cell *after
    while i < n:
        slot = (position + i) % bs
        keys = cache + block_of(a, tile, position + i) * a.head_dim * bs + slot
        if slot + 16 <= bs and i % 16 == 0:
            after = cache + block_of(a, tile, position + ahead + i) * a.head_dim * bs + slot
            for d in range(a.head_dim):
                prefetch(after + d * bs)
                load_cells(keys + d * bs, tile.cells + d * STEP + i)
            i += 16
        else:
            for d in range(a.head_dim):
                tile.cells[d * STEP + i] = cell_to_float(keys + d * bs)
            i += 1


cdef inline void load_values(
    const AttentionArgs *a, const Cell *cache, Tile *tile, int64_t position, int64_t end
) noexcept nogil:
    """The same of values: cells (STEP, width), zeros past head_dim."""
    cdef int64_t n = min(<int64_t>STEP, end - position)
    cdef int64_t ahead = STEP if position + 2 * STEP <= end else 0
    cdef const Cell *after
    cdef int64_t i, d, whole = a.head_dim // 16 * 16, position_block, slot
    cdef int64_t width = (a.head_dim + 15) // 16 * 16
    cdef const Cell *values
    cdef float *out
    for i in range(n):
        position_block = block_of(a, tile, position + i)
        slot = (position + i) % a.block_size
        values = cache + (position_block * a.block_size + slot) * a.value_stride
        out = tile.cells + i * width
        after = cache + a.value_stride * (
            block_of(a, tile, position + ahead + i) * a.block_size
            + (position + ahead + i) % a.block_size
        )
        for d in range(0, whole, 16):
            prefetch(after + d)
            load_cells(values + d, out + d)
        for d in range(whole, width):
            out[d] = cell_to_float(values + d) if d < a.head_dim else 0
