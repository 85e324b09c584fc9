// Scores, exponentials and weighted values of a group of query rows over one split of positions.
//
// Idea: as in the products, no horizontal sums.  Scores: 16 positions in the lanes, one query unit
// broadcast, summed over head_dim.  Values: 16 dimensions in the lanes, one probability broadcast,
// summed over positions.  Rows are sums in registers that share every load of keys and values; how
// many there are never changes the order of one sum.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cells.h"
#include "exp2.h"
#include "fetch.h"
#include "native/tanh.h"

constexpr float kLog2E = 1.44269504088896341f;
constexpr int64_t kSplit = 512;
constexpr int64_t kSplitBlocks = kSplit / kPositions;
constexpr int kGroup = 12;        // rows whose scores of a split stay in the L1 cache (24 KiB)
constexpr int kMaxHeadDim = 512;  // model.py refuses larger heads
// Rows are padded: at a stride of 2048 bytes twelve of them would share few sets of the L1 cache.
constexpr int64_t kScoreStride = kSplit + kLanes, kValueStride = kMaxHeadDim + kLanes;

// Sums in registers: rows by vectors, for scores and for values.  Fewer where 16 lanes take two
// registers (or four) of sixteen, and where pairs of bfloat16 take two.
template <class Source>
struct Registers {
  static constexpr bool kWide = sizeof(typename Source::Lanes) > sizeof(f32x16);
  static constexpr int kScoreRows = kWidth == 16 ? 12 : kWidth == 8 ? (kWide ? 4 : 6) : 2 - kWide;
  static constexpr int kScoreVectors = kWidth == 16 ? 2 : 1;
  static constexpr int kValueRows = kWidth == 16 ? 6 : kScoreRows;
  static constexpr int kValueVectors = kWidth == 16 ? 4 : 1;
};

// One query row: which positions it sees, and the softmax of the split at hand: `maximum` of the
// scaled scores as a power of two, sum of exponentials.
struct Row {
  const float *q;
  int64_t token, head;
  int64_t first, end;  // sees positions [first, end)
  float maximum, sum;
  float scale;  // of its scores: attention's, log2(e), and the query's own in q8_0
  float inner;  // of capped scores: of what goes into the tanh; scale is then of the tanh
};

struct GroupBuffers {
  alignas(64) float scores[kGroup * kScoreStride];  // then the probabilities, in place
  alignas(64) float values[kGroup * kValueStride];
  alignas(64) Pair words[kGroup * kScoreStride / 2];  // q8_0: probabilities by the values' scales
  const uint8_t *blocks[2 * kSplitBlocks + kMostAhead];  // of keys, of values, and what comes next
};

// One step of `accumulate`.
template <class Source, int R, int L, int64_t kRowUnits>
PYRO_INLINE void add_step(typename Source::Sum (&acc)[R][L], const typename Source::Cell *cells,
                          const typename Source::Unit *units) {
  typename Source::Lanes lanes[L];
#pragma GCC unroll 4
  for (int l = 0; l < L; l++) lanes[l] = Source::load_cells(cells + l * kLanes);
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) {
    const auto unit = Source::broadcast(units[r * kRowUnits]);
#pragma GCC unroll 4
    for (int l = 0; l < L; l++) acc[r][l] = Source::step(acc[r][l], lanes[l], unit);
  }
}

// Fetches the lines of L vectors from `cells` on.
template <class Source, int L>
PYRO_INLINE void fetch_step(const uint8_t *cells) {
  constexpr int64_t kBytes = L * kLanes * int64_t(sizeof(typename Source::Cell));
#pragma GCC unroll 4
  for (int64_t line = 0; line < kBytes; line += 64) __builtin_prefetch(cells + line, 0, 2);
}

// acc[r][l] += sum over n steps of units of row r * lanes l; the cells of a step lie `stride` after
// those of the one before, its units kStepUnits.  Fetches from `ahead` bytes on.
template <class Source, int R, int L, int64_t kRowUnits, int64_t kStepUnits>
PYRO_INLINE void accumulate(typename Source::Sum (&acc)[R][L], const typename Source::Cell *cells,
                            const Fetch &fetch, int64_t ahead, int64_t stride, int64_t n,
                            const typename Source::Unit *units) {
  int64_t i = 0;
  if (fetch.n_blocks == kFetchedBlocks)
    for (; i + kFetchedBlocks <= n; ahead += fetch.stride)
#pragma GCC unroll 4
      for (int b = 0; b < kFetchedBlocks; b++, i++) {
        fetch_step<Source, L>(fetch.blocks[b] + ahead);
        add_step<Source, R, L, kRowUnits>(acc, cells + i * stride, units + i * kStepUnits);
      }
  for (; i < n; i++) {
    fetch_step<Source, L>(fetch.blocks[0] + ahead + i * fetch.stride);
    add_step<Source, R, L, kRowUnits>(acc, cells + i * stride, units + i * kStepUnits);
  }
}

// ---- scores ------------------------------------------------------------------------------------

// The keys of one block; `scales` (groups of 32 dimensions, 32 positions) of ByteCells only.
template <class Source>
struct Keys {
  const typename Source::Cell *cells;
  const uint16_t *scales;
  int64_t head_dim;
  Fetch fetch;
};

// scores[r][0..32) = q[r] . k[p], not yet scaled, for the positions of one block.
template <class Source, int R>
void score_rows(const Keys<Source> &keys, const typename Source::Unit *queries, float *scores) {
  constexpr int L = Registers<Source>::kScoreVectors;
  constexpr bool kScaled = std::is_same_v<Source, ByteCells>;
  const int64_t n_together = kScaled ? 32 : keys.head_dim;
  for (int64_t p = 0; p < kPositions; p += L * kLanes)
    for (int64_t d = 0; d < keys.head_dim; d += n_together) {
      typename Source::Sum acc[R][L] = {};
      const int64_t step = d / Source::kTerms, at = step * kPositions + p;
      const int64_t cell = sizeof(typename Source::Cell);
      const int64_t ahead = step / keys.fetch.n_blocks * keys.fetch.stride + p * cell;
      accumulate<Source, R, L, 1, kGroup>(acc, keys.cells + at, keys.fetch, ahead, kPositions,
                                          std::min(n_together, keys.head_dim - d) / Source::kTerms,
                                          queries + step * kGroup);
      f32x16 scales[L];
#pragma GCC unroll 4
      for (int l = 0; l < L; l++)
        if constexpr (kScaled) scales[l] = load_half(keys.scales + d + p + l * kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int l = 0; l < L; l++) {
          float *out = scores + r * kScoreStride + p + l * kLanes;
          if constexpr (kScaled) {
            const f32x16 before = d ? load(out) : set1(0.0f);
            store(out, fma(to_float(acc[r][l]), scales[l], before));
          } else {
            store(out, acc[r][l]);
          }
        }
    }
}

template <class Source, int R = Registers<Source>::kScoreRows>
void score_some(int n, const Keys<Source> &keys, const typename Source::Unit *queries,
                float *scores) {
  if constexpr (R > 1)
    if (n < R) return score_some<Source, R - 1>(n, keys, queries, scores);
  score_rows<Source, R>(keys, queries, scores);
}

template <class Source>
void score_block(const Keys<Source> &keys, int n_rows, const typename Source::Unit *queries,
                 float *scores) {
  constexpr int kRows = Registers<Source>::kScoreRows;
  for (int r = 0; r < n_rows; r += kRows)
    score_some<Source>(std::min(kRows, n_rows - r), keys, queries + r, scores + r * kScoreStride);
}

// Minus infinity where a row does not look, in the block at `position`.
PYRO_INLINE void mask_block(const Row *rows, int n_rows, int64_t position, float *scores) {
  for (int r = 0; r < n_rows; r++) {
    const int64_t lo = rows[r].first - position, hi = rows[r].end - position;
    if (lo <= 0 && hi >= kPositions) continue;
    for (int64_t i = 0; i < kPositions; i++)
      if (i < lo || i >= hi) scores[r * kScoreStride + i] = -INFINITY;
  }
}

// Capped scores as their tanh, in the block at hand.  No part of the loops of those without a cap.
inline __attribute__((noinline)) void cap_block(const Row *rows, int n_rows, float *scores) {
  for (int r = 0; r < n_rows; r++)
    for (int64_t i = 0; i < kPositions; i += kLanes) {
      float *at = scores + r * kScoreStride + i;
      store(at, tanh(load(at) * set1(rows[r].inner)));
    }
}

// ---- softmax -----------------------------------------------------------------------------------

PYRO_INLINE f32x16 row_maximum(const float *scores, int64_t n) {
  f32x16 a = set1(-INFINITY), b = a;
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    a = max(a, load(scores + i));
    b = max(b, load(scores + i + kLanes));
  }
  return max(a, b);
}

// Exponentials of n scores (a multiple of 32), in place, as float32 or as the units of PairCells;
// sets maximum and sum.  Row.scale includes log2(e): exponentials are powers of two.
template <class Source>
void softmax_row(Row &row, float *scores, int64_t n) {
  row.maximum = reduce_max(row_maximum(scores, n)) * row.scale;
  const f32x16 factor = set1(row.scale), shift = set1(-row.maximum);
  f32x16 sum = set1(0.0f);
  if constexpr (!std::is_same_v<Source, PairCells>) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const f32x16 e = exp2_nonpositive<5>(fma(load(scores + i), factor, shift));
      sum = sum + e;
      store(scores + i, e);
    }
  } else {
    const PairLanes ones = broadcast_pair(0x3f803f80);  // the sum is of what has been rounded
    for (int64_t i = 0; i < n; i += 2 * kLanes) {
      const f32x16 a = exp2_nonpositive<3>(fma(load(scores + i), factor, shift));
      const f32x16 b = exp2_nonpositive<3>(fma(load(scores + i + kLanes), factor, shift));
      Pair *pairs = reinterpret_cast<Pair *>(scores) + i / 2;
      store_pairs(pairs, a, b);
      sum = dot_pairs(sum, load_pairs(pairs), ones);
    }
  }
  row.sum = reduce_add(sum);
}

// ---- values ------------------------------------------------------------------------------------

// Consecutive blocks of values, from block `first` on, and how many positions there are in all.
// adds: to what is there from the blocks before.
template <class Source>
struct Values {
  Blocks blocks;
  int64_t first, n_positions, stride;
  bool adds;
};

// acc[r] += sum over all positions of p[r] * v, for R rows and L vectors from dimension d on.
template <class Source, int R, int L>
PYRO_INLINE void value_sums(typename Source::Sum (&acc)[R][L], const Values<Source> &v,
                            const typename Source::Unit *probs, int64_t d) {
  constexpr int64_t kRowUnits = kScoreStride / (std::is_same_v<Source, ByteCells> ? 2 : 1);
  constexpr int64_t kCell = sizeof(typename Source::Cell);
  for (int64_t p = 0; p < v.n_positions; p += kPositions) {
    const int64_t n = std::min<int64_t>(kPositions, v.n_positions - p);
    const int64_t at = v.first + p / kPositions;
    const auto *block = (const typename Source::Cell *)v.blocks.list[at];
    const Fetch fetch = v.blocks.beside(at, kPositions / Source::kTerms, v.stride * kCell);
    accumulate<Source, R, L, kRowUnits, 1>(acc, block + d, fetch, d * kCell, v.stride,
                                           (n + Source::kTerms - 1) / Source::kTerms,
                                           probs + p / Source::kTerms);
  }
}

template <class Source, int R, int L>
void value_rows(const Values<Source> &v, const typename Source::Unit *probs, float *values,
                int64_t d) {
  f32x16 acc[R][L] = {};
  if (v.adds)
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int l = 0; l < L; l++) acc[r][l] = load(values + r * kValueStride + d + l * kLanes);
  value_sums<Source, R, L>(acc, v, probs, d);
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int l = 0; l < L; l++) store(values + r * kValueStride + d + l * kLanes, acc[r][l]);
}

template <class Source, int R = Registers<Source>::kValueRows>
void value_some(int n, const Values<Source> &v, const typename Source::Unit *probs, float *values) {
  if constexpr (R > 1)
    if (n < R) return value_some<Source, R - 1>(n, v, probs, values);
  constexpr int L = Registers<Source>::kValueVectors;
  int64_t d = 0;
  for (; d + L * kLanes <= v.stride; d += L * kLanes) value_rows<Source, R, L>(v, probs, values, d);
  for (; d < v.stride; d += kLanes) value_rows<Source, R, 1>(v, probs, values, d);
}

template <class Source>
void value_group(const Values<Source> &v, int n_rows, const float *scores, float *values) {
  const auto *probs = reinterpret_cast<const typename Source::Unit *>(scores);
  constexpr int kRows = Registers<Source>::kValueRows;
  for (int r = 0; r < n_rows; r += kRows)
    value_some<Source>(std::min(kRows, n_rows - r), v, probs + r * kScoreStride,
                       values + r * kValueStride);
}
