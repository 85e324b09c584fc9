# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""attention in Cython: causal attention of a ragged batch over the paged cache.

See reference.py for the contract.  As in the products there are no horizontal sums: scores have 32
positions in the lanes and one query value broadcast; values have 64 dimensions in the lanes and one
probability broadcast.  An item is a tile of query rows (tokens times the heads of a group) against
one kv head; 32 positions of keys, then of values, are converted to float32 once for all rows.

A row's context is processed in splits of 512 positions, cut at multiples of 512 whatever the batch,
and merged from left to right: its bits depend on the sequence alone.  `scratch` and `counters` go
unused: one token's context stays on one thread.
"""

from libc.math cimport INFINITY, expf
from libc.stdint cimport int32_t, int64_t, uint16_t
from libc.string cimport memset

from pyroclast_kernels.activation.cython.lanes cimport quantize_row
from pyroclast_kernels.attention.cython.steps cimport (
    MAX_HEAD_DIM, ROWS, STEP, add_values, add_values_of_rows, cap_scores, exponentials, score_rows,
    score_step,
)
from pyroclast_kernels.attention.cython.tile cimport (
    MAX_ROWS, SPLIT, STRIDE, AttentionArgs, Row, Tile, load_keys, load_values,
)
from pyroclast_kernels.native.abi cimport Cell


cdef void softmax_row(
    const AttentionArgs *a, Row *row, float *scores, int64_t begin, int64_t end
) noexcept nogil:
    """Exponentials of a row's scores, capped first, in place; sets maximum and sum."""
    cdef int64_t lo = max(row.first - begin, <int64_t>0), hi = min(row.end, end) - begin
    row.maximum, row.sum = -INFINITY, 0
    cdef int64_t padded = (end - begin + 15) // 16 * 16
    if lo < hi:
        if a.softcap > 0:
            cap_scores(scores + lo, hi - lo, <float>a.softcap)
        row.sum = exponentials(scores, lo, hi, padded, &row.maximum)
    else:
        memset(scores, 0, padded * sizeof(float))


cdef inline bint any_row_sees(
    const Tile *tile, int first, int64_t begin, int64_t end
) noexcept nogil:
    """Whether one of ROWS rows sees one of the positions [begin, end)."""
    cdef int r
    for r in range(first, min(first + <int>ROWS, tile.n_rows)):
        if tile.rows[r].first < end and begin < tile.rows[r].end:
            return True
    return False


cdef void score_block(
    const AttentionArgs *a, Tile *tile, int first, int64_t position, int64_t at, float scale
) noexcept nogil:
    """Scores `at` of up to ROWS rows for the STEP keys in cells."""
    cdef const float *q[ROWS]
    cdef float *scores = tile.scores + first * STRIDE + at
    cdef int n = min(<int>ROWS, tile.n_rows - first), r
    if not any_row_sees(tile, first, position, position + STEP):
        return
    if n == 1:
        score_step(tile.rows[first].q, tile.cells, a.head_dim, scale, scores)
        return
    for r in range(ROWS):  # rows that are not there repeat the last one
        q[r] = tile.rows[first + min(r, n - 1)].q
    score_rows(q, tile.cells, a.head_dim, scale, scores, STRIDE)


cdef void add_block(
    Tile *tile, int first, int64_t position, int64_t at, int64_t n, int64_t width
) noexcept nogil:
    """Adds the n values in cells, weighted by probabilities `at`, to those of up to ROWS rows."""
    cdef float *probs = tile.scores + first * STRIDE + at
    cdef float *out = tile.values + first * MAX_HEAD_DIM
    if not any_row_sees(tile, first, position, position + n):
        return
    if tile.n_rows - first == 1:
        add_values(probs, tile.cells, n, width, out)
    else:
        add_values_of_rows(probs, STRIDE, tile.cells, n, width, out)


cdef inline void one_split(
    const AttentionArgs *a, const Cell *k_cache, const Cell *v_cache, Tile *tile,
    int64_t begin, int64_t end
) noexcept nogil:
    """Scores, softmax and weighted values of all rows over positions [begin, end)."""
    cdef float one = 1
    cdef float scale = one / <float>(1 / a.scale)
    cdef int64_t seen = max(begin, tile.rows[0].first // STEP * STEP), p = seen, n
    cdef int64_t width = (a.head_dim + 15) // 16 * 16
    cdef int n_blocks = (tile.n_rows + ROWS - 1) // ROWS, r
    while p < end:
        load_keys(a, k_cache, tile, p, end)
        for r in range(n_blocks):
            score_block(a, tile, ROWS * r, p, p - begin, scale)
        p += STEP
    for r in range(tile.n_rows):
        softmax_row(a, &tile.rows[r], tile.scores + r * STRIDE, begin, end)
        memset(tile.values + r * MAX_HEAD_DIM, 0, width * sizeof(float))
    p = seen
    while p < end:
        n = min(<int64_t>STEP, end - p)
        load_values(a, v_cache, tile, p, end)
        for r in range(n_blocks):
            add_block(tile, ROWS * r, p, p - begin, n, width)
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


cdef float merge_sink(
    float sink, float maximum, float total, float *merged, int64_t n
) noexcept nogil:
    """Folds a head's sink into its running softmax; returns the sum."""
    cdef float less, one = 1
    cdef int64_t i
    if not sink > maximum:
        return total + expf(sink - maximum)
    less = expf(maximum - sink)
    for i in range(n):
        merged[i] *= less
    return total * less + one


cdef void finish(
    const AttentionArgs *a, const Row *row, float maximum, float total, float *merged
) noexcept nogil:
    cdef int64_t i, at = (row.token * a.n_heads + row.head) * a.head_dim
    if a.sinks != NULL:
        total = merge_sink(a.sinks[row.head], maximum, total, merged, a.head_dim)
    for i in range(a.head_dim):
        merged[i] /= total
    if a.out != NULL:
        for i in range(a.head_dim):
            a.out[at + i] = merged[i]
    if a.out_q8 != NULL:
        quantize_row(merged, a.head_dim, a.out_q8 + at // 32)


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
        finish(a, &tile.rows[r], maxima[r], sums[r], tile.merged + r * MAX_HEAD_DIM)


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
