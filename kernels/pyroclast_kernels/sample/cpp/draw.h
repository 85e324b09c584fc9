// The draw: one pass adds the weights inside a cut up by blocks, the random number picks a block,
// and only that block is walked.
#pragma once

#include "weigh.h"

namespace sampling {

// One part's working memory; scratch_bytes in __init__.py reserves it.
struct Scratch {
  float *adjusted, *logits, *keys;
  int32_t *ids;
  float *top_logits;  // top_p.h: a list besides `logits` and `ids`
  int32_t *top_ids;
  float *groups;         // maxima of groups: see scan
  float *block_weights;  // [kBlock]
  double *block_sums;
  int64_t *block_ties;  // Inside::ties_left at the start of each block
  SelectScratch select;

  Scratch(uint8_t *at, int64_t vocab_size) {
    int64_t padded = (vocab_size + 63) / 64 * 64 + 64;
    float *floats = reinterpret_cast<float *>(at);
    auto take = [&](int64_t n) { return (floats += n) - n; };
    adjusted = take(padded);
    logits = take(padded);
    keys = take(padded);
    ids = reinterpret_cast<int32_t *>(take(padded));
    select.values = take(padded);
    select.weights = take(padded);
    top_logits = take(padded);
    top_ids = reinterpret_cast<int32_t *>(take(padded));
    groups = take(padded / kStride / kLanes * kLanes + kLanes);
    select.sample_values = take(kMaxSample + 64);
    select.sample_weights = take(kMaxSample + 64);
    block_weights = take(kBlock + 64);
    select.histogram = reinterpret_cast<double *>(take(2 * kBuckets * kCopies));
    block_sums = reinterpret_cast<double *>(take(2 * (padded / kBlock + 1)));
    block_ties = reinterpret_cast<int64_t *>(floats);
  }
};

// The index in [0, n) at which the running sum of `weights` first exceeds t; where rounding keeps
// it below, the last index whose weight is not 0.
inline int64_t walk(const float *weights, int64_t n, double t) {
  double sum = 0.0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; i++) {
    if (weights[i] <= 0.0f) continue;
    last = i;
    sum += weights[i];
    if (sum > t) break;
  }
  return last;
}

// The block in which the running sum of `sums` exceeds t; t becomes what is left for inside it.
inline int64_t pick_block(const double *sums, int64_t n_blocks, double &t) {
  int64_t last = 0;
  double before = 0.0, sum = 0.0;
  for (int64_t b = 0; b < n_blocks; b++) {
    if (sums[b] <= 0.0) continue;
    last = b;
    before = sum;
    sum += sums[b];
    if (sum > t) break;
  }
  t -= before;
  return last;
}

inline Mask lowest_bits(Mask m, int64_t n) {
  Mask lowest = 0;
  for (; n > 0; n--, m &= m - 1) lowest |= m & -m;
  return lowest;
}

// Which of 16 keys belong to a prefix; called along the row, it counts the ties down.
struct Inside {
  f32x16 value;
  int64_t ties_left;

  explicit Inside(Cut cut) : value(set1(cut.value)), ties_left(cut.n_ties) {}
  PYRO_INLINE Mask operator()(f32x16 keys) {
    if (ties_left == kAllTies) return at_least(keys, value);
    Mask m = above(keys, value), tied = equal(keys, value);
    if (!tied) return m;
    if (ties_left < count(tied)) tied = lowest_bits(tied, ties_left);
    ties_left -= count(tied);
    return m | tied;
  }
};

// The index drawn at u, once block_sums and block_ties are known.
inline int64_t draw_from_blocks(const float *logits, int64_t n, const Weigher &weigher, Cut cut,
                                double u, int64_t n_blocks, Scratch &s) {
  double total = 0.0;
  for (int64_t b = 0; b < n_blocks; b++) total += s.block_sums[b];
  double t = u * total;
  int64_t block = pick_block(s.block_sums, n_blocks, t), begin = block * kBlock;
  int64_t end = std::min(n, begin + kBlock);
  Inside inside(cut);
  inside.ties_left = s.block_ties[block];
  for (int64_t i = begin; i < end; i += kLanes) {
    f32x16 x = load_n(logits + i, end - i, -INFINITY);
    store(s.block_weights + i - begin, blend(inside(x), weigher(x), set1(0.0f)));
  }
  return begin + walk(s.block_weights, end - begin, t);
}

// The index drawn at u among all of n finite logits, once block_sums is known.
inline int64_t draw_from_all(const float *logits, int64_t n, const Weigher &weigher, double u,
                             Scratch &s) {
  int64_t n_blocks = (n + kBlock - 1) / kBlock;
  std::fill(s.block_ties, s.block_ties + n_blocks, kAllTies);
  return draw_from_blocks(logits, n, weigher, {-FLT_MAX, kAllTies}, u, n_blocks, s);
}

// Draws one of n >= kLongList logits, from which nothing is cut, in one pass over them; false where
// a weight underflows.  Whatever else is asked of a row, its draw from all tokens is this one, with
// weights about the same estimate of the maximum: those about the maximum itself are rounded
// differently, and drew another token once in 4,800.
inline bool draw_at_once(const float *logits, int64_t n, Weigher weigher, double u, Scratch &s,
                         int64_t &index) {
  weigher.maximum = maximum_of_some(logits, n);
  if (!weigh_blocks<false>(logits, n, weigher, s.block_sums, nullptr).good) return false;
  index = draw_from_all(logits, n, weigher, u, s);
  return true;
}

// Draws one of the n tokens inside the cut: its index; n_kept tells how many there are.
inline int64_t draw(const float *logits, int64_t n, const Weigher &weigher, Cut cut, double u,
                    Scratch &s, int64_t &n_kept) {
  if (cut.value == -FLT_MAX && cut.n_ties == kAllTies) {
    int64_t index;
    n_kept = n;
    if (n >= kLongList && draw_at_once(logits, n, weigher, u, s, index)) return index;
    if (weigher.plain) {
      Weigher same = weigher;
      weigh_blocks<false>(logits, n, same, s.block_sums, nullptr);
      return draw_from_all(logits, n, weigher, u, s);
    }
  }
  int64_t n_blocks = 0;
  n_kept = 0;
  Inside inside(cut);
  for (int64_t begin = 0; begin < n; begin += kBlock, n_blocks++) {
    int64_t end = std::min(n, begin + kBlock), i = begin;
    s.block_ties[n_blocks] = inside.ties_left;
    f32x16 sum = set1(0.0f);
    auto add = [&](f32x16 x) __attribute__((always_inline)) {
      Mask m = inside(x);
      sum = sum + blend(m, weigher(x), set1(0.0f));
      n_kept += count(m);
    };
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {  // most cuts leave few: skip 64 at once
      f32x16 x = load(logits + i), y = load(logits + i + 16);
      f32x16 z = load(logits + i + 32), w = load(logits + i + 48);
      if (!at_least(quick_max(quick_max(x, y), quick_max(z, w)), inside.value)) continue;
      add(x);
      add(y);
      add(z);
      add(w);
    }
    for (; i < end; i += kLanes) add(load_n(logits + i, end - i, -INFINITY));
    s.block_sums[n_blocks] = reduce_add(sum);
  }
  return draw_from_blocks(logits, n, weigher, cut, u, n_blocks, s);
}

}  // namespace sampling
