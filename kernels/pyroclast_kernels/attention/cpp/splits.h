// One split of positions for the query rows of a tile, and the merge of splits.
//
// A tile is query rows (tokens of one sequence by heads) in groups of at most kGroup that see the
// same kv head.  Groups of one kv head run one after the other, with scores in the L1 cache and the
// split's keys and values in L2.  Groups of several kv heads go together, block by block: in the
// cache a block's heads lie side by side, and the CPU's prefetcher follows (docs/decisions/0021).
#pragma once

#include "formats.h"
#include "words.h"

constexpr int kMaxGroups = 8;
constexpr int kMaxRows = kMaxGroups * kGroup;

// What a part lays out of the tile at hand, in memory that is lent to it (native/scratch.h).
struct Tile {
  bool capped;  // scores, by Row.inner
  int n_groups;
  int n_rows[kMaxGroups];
  int64_t kv_heads[kMaxGroups];
  Row rows[kMaxRows];  // of group g from kGroup * g on
  GroupBuffers buffers[kMaxGroups];
  alignas(64) float queries[kMaxGroups][kMaxHeadDim * kGroup];  // or pairs; by dimension, then row
  alignas(64) float merged[kMaxRows][kValueStride];             // of the splits so far
  alignas(64) float value_scales[kMaxHeadDim / 32 * kSplit];    // q8_0: of this split
};

template <class Format>
struct Cache {
  const uint8_t *k_cache, *v_cache;
  const int32_t *block_table;
  int64_t n_kv_heads, head_dim, stride;

  const uint8_t *keys(int64_t position, int64_t kv_head) const {
    const int64_t at = block_table[position / kPositions] * n_kv_heads + kv_head;
    return k_cache + at * Format::key_bytes(head_dim);
  }
  const uint8_t *values(int64_t position, int64_t kv_head) const {
    const int64_t at = block_table[position / kPositions] * n_kv_heads + kv_head;
    return v_cache + at * Format::value_bytes(head_dim, stride);
  }
};

// The positions [begin, end) of a split, and those that the part reads next, which it may fetch:
// from `next` on, before `stop`.
struct Positions {
  int64_t begin, end, next, stop;
};

// A split as the rows of some groups see it.
template <class Format>
class Split {
  using Source = typename Format::Source;
  using Cell = typename Source::Cell;
  using Unit = typename Source::Unit;

 public:
  Split(const Cache<Format> &cache, Tile &tile, Positions at)
      : cache_(cache), tile_(tile), at_(at) {}

  // Row by row (maximum, sum), and the values in tile.buffers from 0 on, of n groups.
  void run(int first, int n) {
    int64_t lo = at_.end, hi = at_.begin;
    for (int g = first; g < first + n; g++)
      for (int r = 0; r < tile_.n_rows[g]; r++) {
        const Row &row = tile_.rows[g * kGroup + r];
        lo = std::min(lo, std::max(at_.begin, row.first));
        hi = std::max(hi, std::min(at_.end, row.end));
      }
    lo_ = lo / kPositions * kPositions;
    hi_ = hi;
    n_blocks_ = lo_ < hi_ ? (hi_ - lo_ + kPositions - 1) / kPositions : 0;
    together_ = n > 1;
    // The further groups of a kv head find its blocks in L2.
    in_turn_ = kIsIntel && n_blocks_ > kShortRun && (together_ || first == 0);
    if (n_blocks_ > 0)
      for (int g = 0; g < n; g++) list_blocks(first + g, tile_.buffers[g]);
    for (int64_t i = 0; i < n_blocks_; i++)
      for (int g = 0; g < n; g++) scores(first + g, tile_.buffers[g], i);
    for (int g = 0; g < n; g++) softmax(first + g, tile_.buffers[g]);
    if (n_blocks_ == 0) return;
    if (!together_) return values(first, tile_.buffers[0]);
    if constexpr (!Format::kScaled)
      for (int64_t i = 0; i < n_blocks_; i++)
        for (int g = 0; g < n; g++) block_values(first + g, tile_.buffers[g], i);
  }

 private:
  void list_blocks(int g, GroupBuffers &buffers) const {
    const int64_t kv_head = tile_.kv_heads[g];
    const uint8_t **out = buffers.blocks;
    for (int64_t i = 0; i < n_blocks_; i++) {
      out[i] = cache_.keys(lo_ + i * kPositions, kv_head);
      out[n_blocks_ + i] = cache_.values(lo_ + i * kPositions, kv_head);
    }
    const bool goes_on = at_.next < at_.stop;
    for (int64_t i = 0; i < kMostAhead; i++) {
      const int64_t position = std::min(at_.next + i * kPositions, at_.stop - 1);
      out[2 * n_blocks_ + i] = goes_on ? cache_.keys(position, kv_head) : out[2 * n_blocks_ - 1];
    }
  }

  Blocks blocks(const GroupBuffers &buffers) const {
    const int64_t stride = cache_.n_kv_heads * Format::key_bytes(cache_.head_dim);
    return {buffers.blocks, in_turn_, together_ ? stride : 0};
  }

  void scores(int g, GroupBuffers &buffers, int64_t i) {
    const uint8_t *block = buffers.blocks[i];
    const Fetch fetch = blocks(buffers).beside(i, cache_.head_dim / Source::kTerms,
                                               kPositions * int64_t(sizeof(Cell)));
    const auto *scales = (const uint16_t *)(block + cache_.head_dim * kPositions);
    const Row *rows = tile_.rows + g * kGroup;
    float *out = buffers.scores + i * kPositions;
    score_block<Source>({(const Cell *)block, scales, cache_.head_dim, fetch}, tile_.n_rows[g],
                        reinterpret_cast<const Unit *>(tile_.queries[g]), out);
    if (tile_.capped) cap_block(rows, tile_.n_rows[g], out);
    mask_block(rows, tile_.n_rows[g], lo_ + i * kPositions, out);
  }

  void softmax(int g, GroupBuffers &buffers) {
    for (int r = 0; r < tile_.n_rows[g]; r++) {
      Row &row = tile_.rows[g * kGroup + r];
      float *row_scores = buffers.scores + r * kScoreStride;
      if (std::max(row.first, lo_) < std::min(row.end, hi_)) {
        softmax_row<Source>(row, row_scores, n_blocks_ * kPositions);
      } else {
        std::fill_n(row_scores, n_blocks_ * kPositions, 0.0f);
        row.sum = 0;
      }
    }
  }

  void values(int g, GroupBuffers &buffers) {
    const Values<Source> v{blocks(buffers), n_blocks_, hi_ - lo_, cache_.stride, false};
    if constexpr (Format::kScaled) {
      load_value_scales(buffers.blocks + n_blocks_);
      byte_values(v, tile_.n_rows[g], tile_.value_scales, buffers);
    } else {
      value_group<Source>(v, tile_.n_rows[g], buffers.scores, buffers.values);
    }
  }

  // What block i adds to the sums.
  void block_values(int g, GroupBuffers &buffers, int64_t i) {
    const int64_t n = std::min<int64_t>(kPositions, hi_ - lo_ - i * kPositions);
    const Values<Source> v{blocks(buffers), n_blocks_ + i, n, cache_.stride, i > 0};
    const float *probs = buffers.scores + i * kPositions / Source::kTerms;
    value_group<Source>(v, tile_.n_rows[g], probs, buffers.values);
  }

  void load_value_scales(const uint8_t *const *blocks) {
    if (lo_ == scales_from_ && n_blocks_ == n_scale_blocks_) return;  // as for the group before
    scales_from_ = lo_;
    n_scale_blocks_ = n_blocks_;
    for (int64_t block = 0; block < n_blocks_; block++)
      for (int64_t group = 0; group < scale_groups(cache_.head_dim); group++) {
        const auto *scales =
            (const uint16_t *)(blocks[block] + cache_.stride * kPositions) + group * kPositions;
        float *out = tile_.value_scales + group * kSplit + block * kPositions;
        store(out, load_half(scales));
        store(out + kLanes, load_half(scales + kLanes));
      }
  }

  const Cache<Format> &cache_;
  Tile &tile_;
  const Positions at_;
  int64_t lo_ = 0, hi_ = 0, n_blocks_ = 0;  // seen by some row; lo_ begins a block
  bool together_ = false, in_turn_ = false;
  int64_t scales_from_ = -1, n_scale_blocks_ = 0;  // what is in value_scales
};

// One query as units, kGroup apart; returns what they are to be multiplied by.
template <class Source>
PYRO_INLINE float put_query(const float *q, int64_t head_dim, typename Source::Unit *out) {
  if constexpr (std::is_same_v<Source, ByteCells>) {
    return query_words(q, head_dim, out, kGroup);
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
  return 1;
}

// What happens to q . k before the softmax; cap 0: none.
struct Scoring {
  double scale, cap;
};

// Queries by dimension, then row, so that one pointer serves all rows of a group; sets Row.scale
// and Row.inner.
template <class Source>
void gather_queries(Tile &tile, int64_t head_dim, Scoring scoring) {
  // A quotient: for 1 / sqrt(head_dim) the divisor is sqrt(head_dim), often a whole number.
  const float scale = kLog2E / float(1 / scoring.scale);
  tile.capped = scoring.cap > 0;
  for (int g = 0; g < tile.n_groups; g++)
    for (int r = 0; r < tile.n_rows[g]; r++) {
      Row &row = tile.rows[g * kGroup + r];
      auto *out = reinterpret_cast<typename Source::Unit *>(tile.queries[g]) + r;
      const float of_query = put_query<Source>(row.q, head_dim, out);
      row.scale = scale * of_query;
      if (!tile.capped) continue;
      row.inner = float(scoring.scale / scoring.cap) * of_query;
      row.scale = kLog2E * float(scoring.cap);
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

// Folds a head's sink in, a score like `maximum` that has no value.
PYRO_INLINE void merge_sink(Partial &all, float *merged, float sink, int64_t n) {
  const bool rises = sink > all.maximum;
  const float less = std::exp2(rises ? all.maximum - sink : sink - all.maximum);
  all.sum = rises ? all.sum * less + 1.0f : all.sum + less;
  if (rises)
    for (int64_t i = 0; i < n; i++) merged[i] *= less;
}
