// What a cut leaves of a row: the list of its tokens, and the cuts that make one.
#pragma once

#include "draw.h"

namespace sampling {

// Tokens in order of id.
struct List {
  int32_t *ids;
  float *logits;
  int64_t n;
};

// Lists the tokens whose logits are at least `lowest` > -inf.
inline void gather(List &list, const float *z, int64_t n, float lowest) {
  List to{list.ids, list.logits, 0};  // a local, which no store can change
  const f32x16 least = set1(lowest);
  for (int64_t i = 0; i < n;) {
    while (i + 4 * kLanes <= n) {  // few are wanted as a rule: skip 64 at once
      f32x16 a = quick_max(load(z + i), load(z + i + 16));
      f32x16 b = quick_max(load(z + i + 32), load(z + i + 48));
      if (at_least(quick_max(a, b), least)) break;
      i += 4 * kLanes;
    }
    for (int64_t end = std::min(n, i + 4 * kLanes); i < end; i += kLanes) {
      f32x16 x = load_n(z + i, n - i, -INFINITY);
      Mask m = at_least(x, least);
      if (!m) continue;
      compress(to.logits + to.n, x, m);
      compress(to.ids + to.n, lane_ids(int32_t(i)), m);
      to.n += count(m);
    }
  }
  list = to;
}

// Shortens the list to the prefix `cut` of the falling order of `keys`; ids stay in order.
inline void keep(List &list, const float *keys, Cut cut) {
  List to{list.ids, list.logits, 0};
  Inside inside(cut);
  for (int64_t i = 0, n = list.n; i < n; i += kLanes) {
    Mask m = inside(load_n(keys + i, n - i, -INFINITY));
    if (!m) continue;
    f32x16 z = load(to.logits + i);
    i32x16 ids = loadi(to.ids + i);
    compress(to.logits + to.n, z, m);
    compress(to.ids + to.n, ids, m);
    to.n += count(m);
  }
  list = to;
}

// A lower bound of the k-th largest value: the k-th largest of the maxima of at least 4 k groups.
// -FLT_MAX if that would take groups of a few values.  `groups`: as scan left them.
inline float bound_of_kth(const float *z, int64_t n, int64_t k, const float *groups, Scratch &s) {
  int64_t n_vectors = n / kLanes, stride = kStride;
  while (stride > 1 && n_vectors / stride * kLanes < 4 * k) stride /= 4;
  if (stride == 1) return -FLT_MAX;
  int64_t n_groups = n_vectors / stride * kLanes;
  if (stride < kStride) {
    for (int64_t g = 0; g < n_groups; g += kLanes) {
      const float *from = z + g * stride;
      f32x16 maximum = set1(-FLT_MAX);
      for (int64_t i = 0; i < stride; i++) maximum = quick_max(maximum, load(from + i * kLanes));
      store(s.keys + g, maximum);
    }
    groups = s.keys;
  }
  return select_count(groups, n_groups, k, s.select).value;
}

// Stage 10, by closeness to the mean logit.  The mean is found in two steps and kept as the sum of
// two floats: a distance is then exact to its own last places, however far the maximum logit is.
inline void cut_typical(List &list, double typical_p, const Weigher &weigher, Scratch &s) {
  double total = weigher.weigh(list.logits, list.n, s.select.weights);
  float mean = weigher.maximum;
  double rest = 0.0;
  for (int step = 0; step < 2; step++) {
    f32x16 near = set1(mean);
    double moment =
        sum_over(list.logits, list.n, -FLT_MAX, [&](f32x16 x) { return weigher(x) * (x - near); });
    double better = mean + moment / total;
    mean = float(better);
    rest = better - mean;
  }
  f32x16 high = set1(mean), low = set1(float(rest));
  for (int64_t i = 0; i < list.n; i += kLanes)
    store(s.keys + i, set1(0.0f) - abs((load(list.logits + i) - high) - low));
  if (typical_p <= 0.0) return keep(list, s.keys, select_count(s.keys, list.n, 1, s.select));
  std::memcpy(s.select.values, s.keys, size_t(list.n) * sizeof(float));
  Active active{s.select.values, s.select.weights, list.n};
  keep(list, s.keys, select(active, typical_p * total, total, s.select));
}

}  // namespace sampling
