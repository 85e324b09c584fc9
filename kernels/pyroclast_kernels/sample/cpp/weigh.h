// The weights of logits, exp((logit - maximum) / temperature), and their sums by blocks of 1024.
#pragma once

#include "scan.h"

namespace sampling {

// Weights exp((logit - maximum) / temperature) of logits within the extremes.
struct Weigher {
  float maximum, scale;
  bool plain;  // no weight underflows: `plain_weight` will do

  Weigher(Extremes logits, double temperature)
      : maximum(logits.maximum), scale(float(1.4426950408889634 / temperature)) {
    // Rounding keeps the order, so what holds for the smallest logit holds for all.
    plain = (logits.minimum - maximum) * scale >= kLeastExponent;
  }

  PYRO_INLINE f32x16 exponent(f32x16 logits) const {
    return (logits - set1(maximum)) * set1(scale);
  }
  PYRO_INLINE f32x16 operator()(f32x16 logits) const { return weight(exponent(logits)); }
  // The logit, not rounded to float32, of a weight > 0; at least the least float.
  double inverse(double weight) const {
    return std::max(double(-FLT_MAX), maximum + std::log2(weight) / scale);
  }
  // Writes the weights of n logits, and of up to 15 more; returns their sum.
  double weigh(const float *logits, int64_t n, float *weights) const {
    double total = 0.0;
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      int64_t end = std::min(n, begin + kBlock);
      f32x16 sum = set1(0.0f);
      for (int64_t i = begin; i < end; i += kLanes) {
        f32x16 w = (*this)(load_n(logits + i, end - i, -INFINITY));
        sum = sum + w;
        store(weights + i, w);
      }
      total += reduce_add(sum);
    }
    return total;
  }
};

// The same where weigher.plain holds.
struct PlainWeigher : Weigher {
  explicit PlainWeigher(const Weigher &weigher) : Weigher(weigher) {}
  PYRO_INLINE f32x16 operator()(f32x16 logits) const { return plain_weight(exponent(logits)); }
};

// The sum of the weights of n logits, by blocks.
inline double sum_weights(const float *logits, int64_t n, const Weigher &weigher) {
  if (weigher.plain) return sum_over(logits, n, -FLT_MAX, PlainWeigher(weigher));
  return sum_over(logits, n, -FLT_MAX, weigher);
}

// A logit that is likely to be near the maximum: the maximum of every 64th 16.
inline float maximum_of_some(const float *logits, int64_t n) {
  f32x16 most = load(logits);
  for (int64_t i = 0; i + kLanes <= n; i += 64 * kLanes) most = quick_max(most, load(logits + i));
  return reduce_max(most);
}

// What a pass of weigh_blocks found; nothing but `good` counts where that is false.
struct Weighed {
  bool good;      // all logits are finite, and none far below the maximum so far
  float maximum;  // logit
  double total;   // of the weights
};

// One block: its sum and its extremes; kStore: weights to `out`.  A NaN gives a NaN.
template <bool kStore>
PYRO_INLINE float weigh_block(const float *logits, int64_t n, PlainWeigher weigh, float *out,
                              Extremes &found) {
  f32x16 a = set1(0.0f), b = a, most = set1(-FLT_MAX), least = set1(FLT_MAX);
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    f32x16 x = load(logits + i), y = load(logits + i + kLanes);
    least = quick_min(least, quick_min(x, y));
    most = quick_max(most, quick_max(x, y));
    x = weigh(x);
    y = weigh(y);
    a = a + x;
    b = b + y;
    if (kStore) store(out + i, x);
    if (kStore) store(out + i + kLanes, y);
  }
  for (; i < n; i += kLanes) {
    f32x16 x = load_n(logits + i, n - i, logits[i]);
    least = quick_min(least, x);
    most = quick_max(most, x);
    x = blend(lanes_below(n - i), weigh(x), set1(0.0f));
    a = a + x;
    if (kStore) store_n(out + i, x, n - i);
  }
  found = {-reduce_max(set1(0.0f) - least), reduce_max(most)};
  return reduce_add(a + b);
}

inline void multiply(double *x, int64_t n, double factor) {
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

// x *= factor, from the end, whose lines the cache still has, and a cache line at a time.
inline void multiply(float *x, int64_t n, float factor) {
  int64_t first = std::min(n, int64_t(-reinterpret_cast<uintptr_t>(x) % 64 / sizeof(float)));
  int64_t i = n;
  while ((i - first) % kLanes && i > first) x[--i] *= factor;
  while (i > first) {
    i -= kLanes;
    store(x + i, load(x + i) * set1(factor));
  }
  while (i > 0) x[--i] *= factor;
}

// Adds the weights of logits up by blocks.  weigher.maximum may be an estimate: where a block shows
// that it was too low, it is raised, the block done again and what was done before it rescaled.  (A
// pass of its own to find the maximum first took 5 of 22 us.)  Sums go to `block_sums` unless it
// is null; kStore: weights to `out`.
template <bool kStore>
Weighed weigh_blocks(const float *logits, int64_t n, Weigher &weigher, double *block_sums,
                     float *out) {
  constexpr float kHighest = 16.0f;  // exponents beyond it would be rounded too coarsely
  Weighed found{true, -FLT_MAX, 0.0};
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = std::min(n - begin, kBlock);
    float *to = kStore ? out + begin : nullptr;
    Extremes here;
    float sum = weigh_block<kStore>(logits + begin, size, PlainWeigher(weigher), to, here);
    if ((here.maximum - weigher.maximum) * weigher.scale > kHighest) {
      if (here.maximum == INFINITY) return {};
      double factor = std::exp2((double(weigher.maximum) - here.maximum) * weigher.scale);
      if (block_sums) multiply(block_sums, begin / kBlock, factor);
      if (kStore) multiply(out, begin, float(factor));
      found.total *= factor;
      weigher.maximum = here.maximum;
      sum = weigh_block<kStore>(logits + begin, size, PlainWeigher(weigher), to, here);
    }
    if (!((here.minimum - weigher.maximum) * weigher.scale >= kLeastExponent)) return {};
    if (block_sums) block_sums[begin / kBlock] = sum;
    found.total += sum;
    found.maximum = std::max(found.maximum, here.maximum);
  }
  found.good = found.total < HUGE_VAL;  // a NaN among the logits has reached it
  return found;
}

}  // namespace sampling
