// Causal attention of a ragged batch over the paged cache.  See reference.py for the contract.
//
// Idea: as in the products, no horizontal sums.  Scores: 16 positions in the lanes, one query value
// broadcast, summed over head_dim.  Output: 16 dimensions in the lanes, one probability broadcast,
// summed over positions.  The query heads of a group share every load of K and V.
//
// A query's positions are worked off in splits of kSplit, cut at multiples of kSplit whatever the
// batch: maximum, exponentials, their sum and the weighted values of a split, then the merge of the
// splits from left to right.  So the bits depend on the sequence alone.
// Many tokens: an item is (tile of queries, kv head) and merges its splits as it goes.  Few tokens:
// an item is (token, kv head, split); whoever finishes the last split of a token and head merges.
#include <algorithm>

#include "../activation/quantize.h"

namespace {

struct AttentionArgs {
  const int64_t *n_tokens;
  const int64_t *n_seqs;
  const int32_t *seq_starts;
  const int32_t *positions;
  const int32_t *block_tables;
  const float *qkv;
  const void *k_cache;
  const void *v_cache;
  float *out;
  Q8Block *out_q8;
  float *scratch;
  int32_t *counters;
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t block_size;
  int64_t max_blocks;
  int64_t value_stride;
  int64_t window;
  int64_t max_splits;
  int64_t max_split_tokens;
};

constexpr int64_t kSplit = 512;
constexpr int kMaxRows = 32;      // query rows (tokens x heads of the group) of one item
constexpr int kMaxHeadDim = 256;  // model.py refuses larger heads
// Rows that share a load, as many as have their sums in registers (two vectors of positions, four
// of dimensions each).
constexpr int kScoreRows = kWidth == 16 ? 12 : 2;
constexpr int kValueRows = kWidth == 16 ? 6 : 1;
constexpr int kPositions = 32;  // of a step over the cache; block_size is a multiple
constexpr int kValueLanes = 4;  // vectors of 16 dimensions per pass over the values

PYRO_INLINE f32x16 load_cells(const float *p) { return load(p); }
PYRO_INLINE f32x16 load_cells(const uint16_t *p) { return load_half(p); }

// One query row: where its query is, which positions it sees, and its running softmax.
struct Row {
  const float *q;
  int64_t first, end;  // sees positions [first, end)
  float maximum, sum;
};

struct Tile {
  int n_rows;
  Row rows[kMaxRows];
  alignas(64) float queries[kMaxHeadDim][kMaxRows];  // one pointer serves all rows
  // Rows are padded: at a stride of 2048 bytes thirty of them share two sets of the L1 cache.
  alignas(64) float scores[kMaxRows][kSplit + kLanes];
  alignas(64) float values[kMaxRows][kMaxHeadDim + kLanes];  // of this split
  alignas(64) float plain[kPositions * kMaxHeadDim];  // 32 positions of keys or values, widened
  alignas(64) float merged[kMaxRows][kMaxHeadDim + kLanes];  // of the splits so far
};

template <class Cell>
struct Head {
  const AttentionArgs &a;
  const int32_t *block_table;
  int64_t kv_head;
  const Cell *keys(int64_t position) const {
    const int64_t at = block_table[position / a.block_size] * a.n_kv_heads + kv_head;
    return (const Cell *)a.k_cache + at * a.head_dim * a.block_size + position % a.block_size;
  }
  const Cell *values(int64_t position) const {
    const int64_t at = block_table[position / a.block_size] * a.n_kv_heads + kv_head;
    return (const Cell *)a.v_cache + (at * a.block_size + position % a.block_size) * a.value_stride;
  }
};

// scores[r][0..32) = q[r] . k[p] / sqrt(head_dim) for 32 positions, R rows at once; keys of one
// dimension lie `stride` apart.  `next` is where the keys after these lie: a block of the cache is
// about a page long, and hardware prefetchers stop at its end.
template <class Cell, int R>
PYRO_INLINE void score_rows(const Cell *keys, const Cell *next, int64_t stride, int64_t head_dim,
                            const float *queries, float *const *out) {
  f32x16 acc[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = set1(0.0f);
  for (int64_t d = 0; d < head_dim; d++) {
    __builtin_prefetch(next + d * stride);
    const f32x16 k0 = load_cells(keys + d * stride), k1 = load_cells(keys + d * stride + kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const f32x16 q = set1(queries[d * kMaxRows + r]);
      acc[r][0] = fma(k0, q, acc[r][0]);
      acc[r][1] = fma(k1, q, acc[r][1]);
    }
  }
  const f32x16 scale = set1(1.0f / std::sqrt(float(head_dim)));
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) {
    store(out[r], acc[r][0] * scale);
    store(out[r] + kLanes, acc[r][1] * scale);
  }
}

template <class Cell, int R = kScoreRows>
void score_some(int n, const Cell *keys, const Cell *next, int64_t stride, int64_t head_dim,
                const float *queries, float *const *out) {
  if constexpr (R > 1)
    if (n < R) return score_some<Cell, R - 1>(n, keys, next, stride, head_dim, queries, out);
  score_rows<Cell, R>(keys, next, stride, head_dim, queries, out);
}

// Exponentials of a row's scores in place, 0 where the row does not look; sets maximum and sum.
void softmax_row(Row &row, float *scores, int64_t begin, int64_t end) {
  const int64_t lo = std::max(row.first - begin, int64_t(0)), hi = std::min(row.end, end) - begin;
  const int64_t padded = (end - begin + 31) / 32 * 32;
  if (hi <= lo) {
    std::fill(scores, scores + padded, 0.0f);
    row.maximum = -INFINITY;
    row.sum = 0;
    return;
  }
  std::fill(scores, scores + lo, -INFINITY);
  std::fill(scores + hi, scores + padded, -INFINITY);
  f32x16 top = set1(-INFINITY);
  for (int64_t i = lo / kLanes * kLanes; i < hi; i += kLanes) top = max(top, load(scores + i));
  row.maximum = reduce_max(top);
  f32x16 sum = set1(0.0f);
  for (int64_t i = 0; i < padded; i += kLanes) {
    const f32x16 e = exp_nonpositive(load(scores + i) - set1(row.maximum));
    sum = sum + e;
    store(scores + i, e);
  }
  row.sum = reduce_add(sum);
}

// values[r] += sum over n positions of scores[r] * v, for R rows and L vectors of dimensions;
// values of one position lie `stride` apart, those of the next positions at `next`.
template <class Cell, int R, int L>
PYRO_INLINE void value_rows(const Cell *values, const Cell *next, int64_t stride, int64_t n,
                            Tile &tile, int row, int64_t first, int64_t d) {
  f32x16 acc[R][L];
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int l = 0; l < L; l++) acc[r][l] = load(tile.values[row + r] + d + l * kLanes);
  for (int64_t p = 0; p < n; p++) {
    f32x16 v[L];
#pragma GCC unroll 4
    for (int l = 0; l < L; l++) {
      if (l * kLanes * sizeof(Cell) % 64 == 0)
        __builtin_prefetch(next + p * stride + d + l * kLanes);
      v[l] = load_cells(values + p * stride + d + l * kLanes);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      const f32x16 weight = set1(tile.scores[row + r][first + p]);
#pragma GCC unroll 4
      for (int l = 0; l < L; l++) acc[r][l] = fma(weight, v[l], acc[r][l]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int l = 0; l < L; l++) store(tile.values[row + r] + d + l * kLanes, acc[r][l]);
}

template <class Cell, int R>
void value_columns(const Cell *values, const Cell *next, int64_t stride, int64_t n, Tile &tile,
                   int row, int64_t first, int64_t n_columns) {
  int64_t d = 0;
  for (; d + kValueLanes * kLanes <= n_columns; d += kValueLanes * kLanes)
    value_rows<Cell, R, kValueLanes>(values, next, stride, n, tile, row, first, d);
  for (; d < n_columns; d += kLanes)
    value_rows<Cell, R, 1>(values, next, stride, n, tile, row, first, d);
}

template <class Cell, int R = kValueRows>
void value_some(int rows, const Cell *values, const Cell *next, int64_t stride, int64_t n,
                Tile &tile, int row, int64_t first, int64_t n_columns) {
  if constexpr (R > 1)
    if (rows < R)
      return value_some<Cell, R - 1>(rows, values, next, stride, n, tile, row, first, n_columns);
  value_columns<Cell, R>(values, next, stride, n, tile, row, first, n_columns);
}

// The scores of every row of the tile for 32 positions.
template <class Cell>
void score_tile(const Cell *keys, const Cell *next, int64_t stride, int64_t head_dim, Tile &tile,
                int64_t first) {
  for (int r = 0; r < tile.n_rows; r += kScoreRows) {
    float *out[kScoreRows];
    for (int i = 0; i < kScoreRows; i++)
      out[i] = tile.scores[std::min(r + i, kMaxRows - 1)] + first;
    score_some<Cell>(std::min(kScoreRows, tile.n_rows - r), keys, next, stride, head_dim,
                     tile.queries[0] + r, out);
  }
}

template <class Cell>
void value_tile(const Cell *values, const Cell *next, int64_t stride, int64_t n, Tile &tile,
                int64_t first, int64_t n_columns) {
  for (int r = 0; r < tile.n_rows; r += kValueRows)
    value_some<Cell>(std::min(kValueRows, tile.n_rows - r), values, next, stride, n, tile, r, first,
                     n_columns);
}

// n cells as float32; meanwhile the cells at `next` are fetched.
template <class Cell>
void widen(const Cell *cells, const Cell *next, int64_t n, float *out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    if (i * sizeof(Cell) % 64 == 0) __builtin_prefetch(next + i);
    store(out + i, load_cells(cells + i));
  }
}

// Scores, softmax and weighted values of all rows of the tile over positions [begin, end).  Where
// several groups of rows read the same cells, these are made float32 once, in `plain`.
template <class Cell>
void one_split(const Head<Cell> &head, Tile &tile, int64_t begin, int64_t end) {
  const int64_t head_dim = head.a.head_dim, columns = head.a.value_stride;
  const int64_t block_size = head.a.block_size;
  const bool wide = tile.n_rows > kValueRows && sizeof(Cell) < sizeof(float);
  float *plain = tile.plain;
  for (int64_t p = begin; p < end; p += kPositions) {
    const Cell *keys = head.keys(p);
    const Cell *next = p + kPositions < end ? head.keys(p + kPositions) : head.values(begin);
    if (wide && block_size == kPositions) {
      widen(keys, next, head_dim * kPositions, plain);
      score_tile<float>(plain, plain, kPositions, head_dim, tile, p - begin);
    } else {
      score_tile<Cell>(keys, next, block_size, head_dim, tile, p - begin);
    }
  }
  for (int r = 0; r < tile.n_rows; r++) {
    softmax_row(tile.rows[r], tile.scores[r], begin, end);
    std::fill_n(tile.values[r], columns, 0.0f);
  }
  for (int64_t p = begin; p < end; p += kPositions) {
    const Cell *values = head.values(p);
    const Cell *next = p + kPositions < end ? head.values(p + kPositions) : values;
    const int64_t n = std::min<int64_t>(kPositions, end - p);
    if (wide) {
      widen(values, next, n * columns, plain);
      value_tile<float>(plain, plain, columns, n, tile, p - begin, columns);
    } else {
      value_tile<Cell>(values, next, columns, n, tile, p - begin, columns);
    }
  }
}

// Folds a split (maximum, sum, values) into the running softmax of a row.
void merge(float &maximum, float &sum, float *merged, float split_maximum, float split_sum,
           const float *values, int64_t n) {
  if (split_sum == 0) return;  // the row saw nothing in this split
  const float top = std::max(maximum, split_maximum);
  const float keep = std::exp(maximum - top), add = std::exp(split_maximum - top);
  sum = sum * keep + split_sum * add;
  for (int64_t i = 0; i < n; i++) merged[i] = merged[i] * keep + values[i] * add;
  maximum = split_maximum == split_maximum ? top : split_maximum;
}

void finish(const AttentionArgs &a, int64_t token, int64_t q_head, float sum, float *merged) {
  for (int64_t i = 0; i < a.head_dim; i++) merged[i] /= sum;
  const int64_t at = (token * a.n_heads + q_head) * a.head_dim;
  if (a.out) std::memcpy(a.out + at, merged, size_t(a.head_dim) * sizeof(float));
  if (a.out_q8) quantize_row(merged, a.head_dim, a.out_q8 + at / 32);
}

Row make_row(const AttentionArgs &a, int64_t token, int64_t q_head) {
  const int64_t stride = (a.n_heads + 2 * a.n_kv_heads) * a.head_dim, end = a.positions[token] + 1;
  const int64_t first = a.window > 0 ? std::max<int64_t>(0, end - a.window) : 0;
  return {a.qkv + token * stride + q_head * a.head_dim, first, end, -INFINITY, 0};
}

void gather_queries(Tile &tile, int64_t head_dim) {
  for (int r = 0; r < tile.n_rows; r++)
    for (int64_t d = 0; d < head_dim; d++) tile.queries[d][r] = tile.rows[r].q[d];
}

// One tile of queries against one kv head, all splits in order.
template <class Cell>
void whole_tile(const AttentionArgs &a, int64_t seq, int64_t token, int64_t n, int64_t kv_head,
                int64_t first_head, int64_t n_heads) {
  static thread_local Tile tile;
  float maxima[kMaxRows], sums[kMaxRows];
  tile.n_rows = 0;
  for (int64_t t = token; t < token + n; t++)
    for (int64_t h = 0; h < n_heads; h++) {
      maxima[tile.n_rows] = -INFINITY;
      sums[tile.n_rows] = 0;
      std::fill_n(tile.merged[tile.n_rows], a.value_stride, 0.0f);
      tile.rows[tile.n_rows++] = make_row(a, t, first_head + h);
    }
  gather_queries(tile, a.head_dim);
  const Head<Cell> head{a, a.block_tables + seq * a.max_blocks, kv_head};
  const int64_t end = tile.rows[tile.n_rows - 1].end;
  for (int64_t begin = tile.rows[0].first / kSplit * kSplit; begin < end; begin += kSplit) {
    one_split(head, tile, begin, std::min(begin + kSplit, end));
    for (int r = 0; r < tile.n_rows; r++)
      merge(maxima[r], sums[r], tile.merged[r], tile.rows[r].maximum, tile.rows[r].sum,
            tile.values[r], a.value_stride);
  }
  for (int r = 0; r < tile.n_rows; r++)
    finish(a, token + r / n_heads, first_head + r % n_heads, sums[r], tile.merged[r]);
}

// One split of one token against one kv head; the last one to finish merges them all.
template <class Cell>
void one_split_item(const AttentionArgs &a, int64_t seq, int64_t token, int64_t kv_head,
                    int64_t first_head, int64_t n_heads, int64_t first_split, int64_t split_index,
                    int64_t n_splits, int32_t *counter) {
  static thread_local Tile tile;
  tile.n_rows = int(n_heads);
  for (int64_t h = 0; h < n_heads; h++) tile.rows[h] = make_row(a, token, first_head + h);
  gather_queries(tile, a.head_dim);
  const Head<Cell> head{a, a.block_tables + seq * a.max_blocks, kv_head};
  const int64_t begin = (first_split + split_index) * kSplit;
  one_split(head, tile, begin, std::min(begin + kSplit, tile.rows[0].end));
  const int64_t cell = a.value_stride + 2;
  auto partial = [&](int64_t h, int64_t s) {
    return a.scratch + ((token * a.n_heads + first_head + h) * a.max_splits + s) * cell;
  };
  for (int64_t h = 0; h < n_heads; h++) {
    float *p = partial(h, split_index);
    p[0] = tile.rows[h].maximum;
    p[1] = tile.rows[h].sum;
    std::memcpy(p + 2, tile.values[h], size_t(a.value_stride) * sizeof(float));
  }
  if (__atomic_add_fetch(counter, 1, __ATOMIC_ACQ_REL) < n_splits) return;
  __atomic_store_n(counter, 0, __ATOMIC_RELAXED);
  for (int64_t h = 0; h < n_heads; h++) {
    float maximum = -INFINITY, sum = 0;
    std::fill_n(tile.merged[h], a.value_stride, 0.0f);
    for (int64_t s = 0; s < n_splits; s++) {
      const float *p = partial(h, s);
      merge(maximum, sum, tile.merged[h], p[0], p[1], p + 2, a.value_stride);
    }
    finish(a, token, first_head + h, sum, tile.merged[h]);
  }
}

template <class Cell>
void attention(const void *args, int part, int n_parts) {
  const AttentionArgs &a = *static_cast<const AttentionArgs *>(args);
  const int64_t group = a.n_heads / a.n_kv_heads;
  const int64_t heads_per_item = std::min<int64_t>(group, kMaxRows);
  const int64_t chunks = (group + heads_per_item - 1) / heads_per_item;
  const int64_t columns = a.n_kv_heads * chunks;  // (kv head, chunk of its query heads)
  const bool few = *a.n_tokens <= a.max_split_tokens;
  const int64_t tile_tokens = few ? 1 : std::max<int64_t>(1, kMaxRows / group);
  int64_t item = 0;
  for (int64_t seq = 0; seq < *a.n_seqs; seq++)
    // The last tiles of a sequence look furthest back: the longest items go first.
    for (int64_t end = a.seq_starts[seq + 1]; end > a.seq_starts[seq]; end -= tile_tokens) {
      const int64_t token = std::max<int64_t>(a.seq_starts[seq], end - tile_tokens);
      const Row row = make_row(a, token, 0);
      const int64_t first_split = row.first / kSplit;
      const int64_t n_splits = few ? (row.end + kSplit - 1) / kSplit - first_split : 1;
      for (int64_t column = 0; column < columns; column++) {
        const int64_t kv_head = column / chunks, chunk = column % chunks;
        const int64_t first_head = kv_head * group + chunk * heads_per_item;
        const int64_t n_heads = std::min(heads_per_item, group - chunk * heads_per_item);
        for (int64_t s = 0; s < n_splits; s++, item++) {
          if (item % n_parts != part) continue;
          if (few)
            one_split_item<Cell>(a, seq, token, kv_head, first_head, n_heads, first_split, s,
                                 n_splits, a.counters + token * columns + column);
          else
            whole_tile<Cell>(a, seq, token, end - token, kv_head, first_head, n_heads);
        }
      }
    }
}

PYRO_KERNEL("attention.f32", attention<float>);
PYRO_KERNEL("attention.f16", attention<uint16_t>);

}  // namespace
