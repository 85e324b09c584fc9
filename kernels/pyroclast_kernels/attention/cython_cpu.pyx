# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""attention in Cython: causal attention of a ragged batch over the paged cache.

See reference.py for the contract.  As in the products there are no horizontal sums: scores have 32
positions in the lanes and one query value broadcast; values have 64 dimensions in the lanes and one
probability broadcast.  An item is a tile of query rows (tokens times the heads of a group) against
one kv head; 32 positions of keys, then of values, are converted to float32 once for all rows.

A row's positions are worked off in splits of 512, cut at multiples of 512 whatever the batch, and
merged from left to right: its bits depend on the sequence alone.  `scratch` and `counters` go
unused: one token's positions are not shared among threads.
"""

from libc.math cimport INFINITY, expf, sqrtf
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.string cimport memset

from pyroclast_kernels.activation.lanes cimport quantize_block
from pyroclast_kernels.attention.steps cimport (
    MAX_HEAD_DIM, STEP, add_values, exponentials, score_step,
)
from pyroclast_kernels.native.abi cimport Cell, Q8Block, cell_to_float, load_cells

cdef enum:
    SPLIT = 512
    MAX_ROWS = 16  # query rows of a tile: their scores of a split are 32 KiB


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
    float scores[MAX_ROWS * SPLIT]
    float values[MAX_ROWS * MAX_HEAD_DIM]  # of this split
    float merged[MAX_ROWS * MAX_HEAD_DIM]  # of the splits so far
    float cells[MAX_HEAD_DIM * STEP]  # keys (head_dim, STEP) or values (STEP, MAX_HEAD_DIM)


# ---- the cache, 32 positions at a time --------------------------------------------------------


cdef inline int64_t block_of(
    const AttentionArgs *a, const Tile *tile, int64_t position
) noexcept nogil:
    """Which (block, kv head) of the cache."""
    return tile.block_table[position // a.block_size] * a.n_kv_heads + tile.kv_head


cdef inline void load_keys(
    const AttentionArgs *a, const Cell *cache, Tile *tile, int64_t position, int64_t n
) noexcept nogil:
    """cells (head_dim, STEP) = keys of n positions; what lies beyond them is not to be used."""
    cdef int64_t i = 0, d, slot, bs = a.block_size
    cdef const Cell *keys
    while i < n:
        slot = (position + i) % bs
        keys = cache + block_of(a, tile, position + i) * a.head_dim * bs + slot
        if slot + 16 <= bs and i % 16 == 0:
            for d in range(a.head_dim):
                load_cells(keys + d * bs, tile.cells + d * STEP + i)
            i += 16
        else:
            for d in range(a.head_dim):
                tile.cells[d * STEP + i] = cell_to_float(keys + d * bs)
            i += 1


cdef inline void load_values(
    const AttentionArgs *a, const Cell *cache, Tile *tile, int64_t position, int64_t n
) noexcept nogil:
    """cells (STEP, MAX_HEAD_DIM) = values of n positions."""
    cdef int64_t i, d, whole = a.head_dim // 16 * 16, position_block, slot
    cdef const Cell *values
    cdef float *out
    for i in range(n):
        position_block = block_of(a, tile, position + i)
        slot = (position + i) % a.block_size
        values = cache + (position_block * a.block_size + slot) * a.value_stride
        out = tile.cells + i * MAX_HEAD_DIM
        for d in range(0, whole, 16):
            load_cells(values + d, out + d)
        for d in range(whole, a.head_dim):
            out[d] = cell_to_float(values + d)


# ---- tiles ------------------------------------------------------------------------------------


cdef void softmax_row(Row *row, float *scores, int64_t begin, int64_t end) noexcept nogil:
    """Exponentials of a row's scores in place; sets maximum and sum."""
    cdef int64_t lo = max(row.first - begin, <int64_t>0), hi = min(row.end, end) - begin
    row.maximum, row.sum = -INFINITY, 0
    if lo < hi:
        row.sum = exponentials(scores, lo, hi, (end - begin + 15) // 16 * 16, &row.maximum)


cdef inline void one_split(
    const AttentionArgs *a, const Cell *k_cache, const Cell *v_cache, Tile *tile,
    int64_t begin, int64_t end
) noexcept nogil:
    """Scores, softmax and weighted values of all rows over positions [begin, end)."""
    cdef float one = 1
    cdef float scale = one / sqrtf(<float>a.head_dim)
    cdef int64_t seen = max(begin, tile.rows[0].first // STEP * STEP), p = seen, n, lo, hi
    cdef int64_t width = (a.head_dim + 15) // 16 * 16
    cdef float *scores
    cdef int r
    while p < end:
        load_keys(a, k_cache, tile, p, min(<int64_t>STEP, end - p))
        for r in range(tile.n_rows):
            if tile.rows[r].first < p + STEP and p < tile.rows[r].end:
                scores = tile.scores + r * SPLIT + p - begin
                score_step(tile.rows[r].q, tile.cells, a.head_dim, scale, scores)
        p += STEP
    for r in range(tile.n_rows):
        softmax_row(&tile.rows[r], tile.scores + r * SPLIT, begin, end)
        memset(tile.values + r * MAX_HEAD_DIM, 0, width * sizeof(float))
    p = seen
    while p < end:
        n = min(<int64_t>STEP, end - p)
        load_values(a, v_cache, tile, p, n)
        for r in range(tile.n_rows):
            lo, hi = max(tile.rows[r].first, p), min(tile.rows[r].end, p + n)
            if lo < hi:
                add_values(
                    tile.scores + r * SPLIT + lo - begin, tile.cells + (lo - p) * MAX_HEAD_DIM,
                    hi - lo, width, tile.values + r * MAX_HEAD_DIM,
                )
        p += STEP


cdef void merge(
    float *maximum, float *total, float *merged, const Row *row, const float *values, int64_t n
) noexcept nogil:
    """Folds a split into the running softmax of a row."""
    if row.sum == 0:
        return  # the row saw nothing in this split
    cdef float top = maximum[0] if maximum[0] > row.maximum else row.maximum
    cdef float keep = expf(maximum[0] - top), add = expf(row.maximum - top)
    cdef int64_t i
    total[0] = total[0] * keep + row.sum * add
    for i in range(n):
        merged[i] = merged[i] * keep + values[i] * add
    maximum[0] = top


cdef void finish(const AttentionArgs *a, const Row *row, float total, float *merged) noexcept nogil:
    cdef int64_t i, at = (row.token * a.n_heads + row.head) * a.head_dim
    for i in range(a.head_dim):
        merged[i] /= total
    if a.out != NULL:
        for i in range(a.head_dim):
            a.out[at + i] = merged[i]
    if a.out_q8 != NULL:
        for i in range(a.head_dim // 32):
            quantize_block(merged + 32 * i, a.out_q8 + at // 32 + i)


cdef void make_row(const AttentionArgs *a, int64_t token, int64_t head, Row *row) noexcept nogil:
    cdef int64_t stride = (a.n_heads + 2 * a.n_kv_heads) * a.head_dim
    row.q = a.qkv + token * stride + head * a.head_dim
    row.token, row.head = token, head
    row.end = a.positions[token] + 1
    row.first = max(<int64_t>0, row.end - a.window) if a.window > 0 else 0


cdef inline void run_tile(
    const AttentionArgs *a, const Cell *k_cache, const Cell *v_cache, Tile *tile
) noexcept nogil:
    """All splits of a tile in order.  Rows are in rising position: the first row looks back
    furthest, the last one sees most."""
    cdef float maxima[MAX_ROWS]
    cdef float sums[MAX_ROWS]
    cdef int64_t begin = tile.rows[0].first // SPLIT * SPLIT, stop
    cdef int64_t end = tile.rows[tile.n_rows - 1].end
    cdef int r
    for r in range(tile.n_rows):
        maxima[r], sums[r] = -INFINITY, 0
        memset(tile.merged + r * MAX_HEAD_DIM, 0, a.head_dim * sizeof(float))
    while begin < end:
        stop = min(begin + SPLIT, end)
        one_split(a, k_cache, v_cache, tile, begin, stop)
        for r in range(tile.n_rows):
            merge(
                &maxima[r], &sums[r], tile.merged + r * MAX_HEAD_DIM, &tile.rows[r],
                tile.values + r * MAX_HEAD_DIM, a.head_dim,
            )
        begin = stop
    for r in range(tile.n_rows):
        finish(a, &tile.rows[r], sums[r], tile.merged + r * MAX_HEAD_DIM)


cdef inline void attention(
    const AttentionArgs *a, const Cell *k_cache, const Cell *v_cache, int part, int n_parts
) noexcept nogil:
    cdef Tile tile
    cdef int64_t group = a.n_heads // a.n_kv_heads, item = 0
    cdef int64_t heads_per_item = min(group, <int64_t>MAX_ROWS)
    cdef int64_t tokens_per_item = max(<int64_t>1, MAX_ROWS // group)
    cdef int64_t seq, end, first, token, head, kv_head, first_head, stop_head
    for seq in range(a.n_seqs[0]):
        tile.block_table = a.block_tables + seq * a.max_blocks
        # The last tiles of a sequence look furthest back: the longest items go first.
        end = a.seq_starts[seq + 1]
        while end > a.seq_starts[seq]:
            first = max(<int64_t>a.seq_starts[seq], end - tokens_per_item)
            for kv_head in range(a.n_kv_heads):
                first_head = kv_head * group
                while first_head < (kv_head + 1) * group:
                    stop_head = min(first_head + heads_per_item, (kv_head + 1) * group)
                    if item % n_parts == part:
                        tile.n_rows, tile.kv_head = 0, kv_head
                        for token in range(first, end):
                            for head in range(first_head, stop_head):
                                make_row(a, token, head, &tile.rows[tile.n_rows])
                                tile.n_rows += 1
                        run_tile(a, k_cache, v_cache, &tile)
                    item += 1
                    first_head = stop_head
            end = first


cdef void attention_f32(const void *args, int part, int n_parts) noexcept nogil:
    cdef const AttentionArgs *a = <const AttentionArgs *>args
    attention(a, <const float *>a.k_cache, <const float *>a.v_cache, part, n_parts)


cdef void attention_f16(const void *args, int part, int n_parts) noexcept nogil:
    cdef const AttentionArgs *a = <const AttentionArgs *>args
    attention(a, <const uint16_t *>a.k_cache, <const uint16_t *>a.v_cache, part, n_parts)


def kernels():
    """{"op.format": address} of the kernels in this module."""
    return {"attention.f32": <size_t>&attention_f32, "attention.f16": <size_t>&attention_f16}
