// One split of positions for all query rows of a tile, and the merge of splits.
//
// A tile is query rows (tokens of one sequence by heads of one group) against one kv head.  Groups
// of kGroup rows take their turn, with scores in the L1 cache and the split's keys and values in
// L2.
#pragma once

#include "formats.h"
#include "words.h"

constexpr int kMaxGroups = 8;
constexpr int kMaxRows = kMaxGroups * kGroup;
constexpr int kSplitBlocks = kSplit / kPositions;

// The memory of a thread's tile.
struct Tile {
  int n_rows;
  Row rows[kMaxRows];
  GroupBuffers group;
  alignas(64) float queries[kMaxGroups][kMaxHeadDim * kGroup];  // or pairs; by dimension, then row
  alignas(64) float merged[kMaxRows][kValueStride];             // of the splits so far
  alignas(64) float value_scales[kMaxHeadDim / 32 * kSplit];    // q8_0: of this split
};

template <class Format>
struct Head {
  using Cell = typename Format::Source::Cell;
  const uint8_t *k_cache, *v_cache;
  const int32_t *block_table;
  int64_t kv_head, n_kv_heads, head_dim, stride;

  const uint8_t *keys(int64_t position) const {
    const int64_t at = block_table[position / kPositions] * n_kv_heads + kv_head;
    return k_cache + at * Format::key_bytes(head_dim);
  }
  const uint8_t *values(int64_t position) const {
    const int64_t at = block_table[position / kPositions] * n_kv_heads + kv_head;
    return v_cache + at * Format::value_bytes(head_dim, stride);
  }
};

// The positions [begin, end) of a split, as the rows of a group see them.
template <class Format>
class Split {
  using Source = typename Format::Source;
  using Cell = typename Source::Cell;
  using Unit = typename Source::Unit;

 public:
  Split(const Head<Format> &head, Tile &tile, int64_t begin, int64_t end)
      : head_(head), tile_(tile), begin_(begin), end_(end) {}

  // Row by row (maximum, sum) and values of the group that begins with row `first`.
  void run(int first) {
    const int n_rows = std::min(kGroup, tile_.n_rows - first);
    Row *rows = tile_.rows + first;
    int64_t lo = end_, hi = begin_;
    for (int r = 0; r < n_rows; r++) {
      lo = std::min(lo, std::max(begin_, rows[r].first));
      hi = std::max(hi, std::min(end_, rows[r].end));
    }
    lo = lo / kPositions * kPositions;
    if (lo >= hi) {
      for (int r = 0; r < n_rows; r++) rows[r].sum = 0;
      return;
    }
    scores(rows, n_rows, first, lo, hi);
    for (int r = 0; r < n_rows; r++) {
      float *row_scores = tile_.group.scores + r * kScoreStride;
      if (std::max(rows[r].first, lo) < std::min(rows[r].end, hi)) {
        softmax_row<Source>(rows[r], row_scores, padded(lo, hi));
      } else {
        std::fill_n(row_scores, padded(lo, hi), 0.0f);
        rows[r].sum = 0;
      }
    }
    values(n_rows, lo, hi);
  }

 private:
  // Positions of the blocks that hold [lo, hi); lo begins one.
  static int64_t padded(int64_t lo, int64_t hi) {
    return (hi - lo + kPositions - 1) / kPositions * kPositions;
  }

  void scores(const Row *rows, int n_rows, int first, int64_t lo, int64_t hi) {
    const auto *queries = reinterpret_cast<const Unit *>(tile_.queries[first / kGroup]);
    for (int64_t p = lo; p < hi; p += kPositions) {
      const uint8_t *cells = head_.keys(p);
      const int64_t ahead = p + kAhead * kPositions, after = lo + (ahead - lo - padded(lo, hi));
      const uint8_t *next = ahead < hi ? head_.keys(ahead) : head_.values(std::min(after, hi - 1));
      const auto *scales = (const uint16_t *)(cells + head_.head_dim * kPositions);
      float *out = tile_.group.scores + (p - lo);
      score_block<Source>({(const Cell *)cells, (const Cell *)next, scales, head_.head_dim}, n_rows,
                          queries, out);
      mask_block(rows, n_rows, p, out);
    }
  }

  void values(int n_rows, int64_t lo, int64_t hi) {
    const Cell *blocks[kSplitBlocks + kAhead];
    int64_t n = 0;
    for (int64_t p = lo; p < hi; p += kPositions) blocks[n++] = (const Cell *)head_.values(p);
    for (int i = 0; i < kAhead; i++) blocks[n + i] = blocks[n - 1];
    const Values<Source> v{blocks, hi - lo, head_.stride};
    if constexpr (Format::kScaled) {
      load_value_scales(lo, n, blocks);
      byte_values(v, n_rows, tile_.value_scales, tile_.group);
    } else {
      value_group<Source>(v, n_rows, tile_.group.scores, tile_.group.values);
    }
  }

  void load_value_scales(int64_t lo, int64_t n_blocks, const Cell *const *blocks) {
    if (lo == scales_from_ && n_blocks == n_scale_blocks_) return;  // as for the group before
    scales_from_ = lo;
    n_scale_blocks_ = n_blocks;
    for (int64_t block = 0; block < n_blocks; block++)
      for (int64_t group = 0; group < scale_groups(head_.head_dim); group++) {
        const auto *scales =
            (const uint16_t *)((const uint8_t *)blocks[block] + head_.stride * kPositions) +
            group * kPositions;
        float *out = tile_.value_scales + group * kSplit + block * kPositions;
        store(out, load_half(scales));
        store(out + kLanes, load_half(scales + kLanes));
      }
  }

  const Head<Format> &head_;
  Tile &tile_;
  const int64_t begin_, end_;
  int64_t scales_from_ = -1, n_scale_blocks_ = 0;  // what is in value_scales
};

// Queries by dimension, then row, so that one pointer serves all rows of a group; sets Row.scale.
template <class Source>
void gather_queries(Tile &tile, int64_t head_dim) {
  const float scale = 1.44269504088896341f / std::sqrt(float(head_dim));
  for (int r = 0; r < tile.n_rows; r++) {
    auto *out = reinterpret_cast<typename Source::Unit *>(tile.queries[r / kGroup]) + r % kGroup;
    const float *q = tile.rows[r].q;
    tile.rows[r].scale = scale;
    if constexpr (std::is_same_v<Source, ByteCells>) {
      tile.rows[r].scale *= query_words(q, head_dim, out, kGroup);
    } else if constexpr (std::is_same_v<Source, PairCells>) {
      for (int64_t d = 0; d < head_dim; d += 2 * kLanes) {
        const int64_t left = head_dim - d;
        Pair pairs[kLanes];
        store_pairs(pairs, load_n(q + d, left), load_n(q + d + kLanes, left - kLanes));
        const int64_t n = std::min<int64_t>(kLanes, left / 2);
        for (int64_t i = 0; i < n; i++) out[(d / 2 + i) * kGroup] = pairs[i];
      }
    } else {
      for (int64_t d = 0; d < head_dim; d++) out[d * kGroup] = q[d];
    }
  }
}

// A softmax over some positions: values are sums weighted by powers of two below 2^maximum.
struct Partial {
  float maximum, sum;
};

// Folds a split into the softmax so far.
PYRO_INLINE void merge(Partial &all, float *merged, Partial split, const float *values, int64_t n) {
  if (split.sum == 0) return;  // the row saw nothing in this split
  const bool rises = !(split.maximum <= all.maximum);
  const float less = std::exp2(rises ? all.maximum - split.maximum : split.maximum - all.maximum);
  const float keep = rises ? less : 1.0f, add = rises ? 1.0f : less;
  all.sum = all.sum * keep + split.sum * add;
  for (int64_t i = 0; i < n; i++) merged[i] = merged[i] * keep + values[i] * add;
  if (rises) all.maximum = split.maximum;
}
