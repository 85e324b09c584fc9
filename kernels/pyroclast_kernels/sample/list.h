// Passes over a row of logits, or over the list of tokens that a cut has left of it.
#pragma once

#include "sample/select.h"

namespace sampling {

constexpr int64_t kStride = 64;  // vectors of a chunk; each of its 16 lanes is a group of values

// One part's working memory; scratch_bytes in __init__.py reserves it.
struct Scratch {
  float *adjusted, *logits, *keys;
  int32_t *ids;
  float *top_logits;  // top_p.h: a list besides `logits` and `ids`
  int32_t *top_ids;
  float *groups;         // greatest values of groups: see scan
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

// The greatest of n >= 1 values; false if one is NaN.  The greatest value of each group of the
// whole chunks, or -FLT_MAX for one of -inf, goes to `groups`, if given: n / (16 kStride) * 16
// floats.
inline bool scan(const float *x, int64_t n, float *groups, float &greatest) {
  NanFlag nan;
  f32x16 most = set1(-INFINITY);
  int64_t i = 0;
  while (i + kStride * kLanes <= n) {
    f32x16 m0 = set1(-INFINITY), m1 = m0, m2 = m0, m3 = m0;
    for (int64_t end = i + kStride * kLanes; i < end; i += 4 * kLanes) {
      f32x16 a = load(x + i), b = load(x + i + 16), c = load(x + i + 32), d = load(x + i + 48);
      m0 = quick_max(m0, a);
      m1 = quick_max(m1, b);
      m2 = quick_max(m2, c);
      m3 = quick_max(m3, d);
      nan.look(a, b);
      nan.look(c, d);
    }
    m0 = quick_max(quick_max(m0, m1), quick_max(m2, m3));
    most = quick_max(most, m0);
    if (groups) store(groups + i / kStride - kLanes, quick_max(m0, set1(-FLT_MAX)));
  }
  for (; i < n; i += kLanes) {
    f32x16 a = load_n(x + i, n - i, -INFINITY);
    most = quick_max(most, a);
    nan.look(a, a);
  }
  greatest = reduce_max(most);
  return !nan.any();
}

// The index of the first value that equals `wanted`, which occurs.
inline int64_t first_equal(const float *x, int64_t n, float wanted) {
  for (int64_t i = 0;; i += kLanes) {
    Mask m = equal(load_n(x + i, n - i, wanted), set1(wanted));
    if (m) return i + __builtin_ctz(m);
  }
}

inline int64_t count_above(const float *x, int64_t n, float limit) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; i += kLanes)
    found += count(above(load_n(x + i, n - i, -INFINITY), set1(limit)));
  return found;
}

// sum(f(x)) over the values that are at least `lowest`, by blocks; f takes and gives 16 lanes.
template <class F>
double sum_over(const float *x, int64_t n, float lowest, F f) {
  double total = 0.0;
  f32x16 least = set1(lowest);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t end = std::min(n, begin + kBlock);
    f32x16 sum = set1(0.0f), other = sum;
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      f32x16 a = load(x + i), b = load(x + i + kLanes);
      sum = sum + where_at_least(a, least, f(a));
      other = other + where_at_least(b, least, f(b));
    }
    for (; i < end; i += kLanes) {
      f32x16 a = load_n(x + i, end - i, -INFINITY);
      sum = sum + where_at_least(a, least, f(a));
    }
    total += reduce_add(sum + other);
  }
  return total;
}

// The population standard deviation of the finite values; two passes, for float32 sums.
inline double deviation(const float *x, int64_t n, float greatest) {
  f32x16 top = set1(greatest);
  double n_finite = sum_over(x, n, -FLT_MAX, [](f32x16) { return set1(1.0f); });
  double mean = sum_over(x, n, -FLT_MAX, [&](f32x16 v) { return v - top; }) / n_finite;
  f32x16 shift = set1(float(mean));
  double squares = sum_over(x, n, -FLT_MAX, [&](f32x16 v) {
    f32x16 d = (v - top) - shift;
    return d * d;
  });
  return std::sqrt(squares / n_finite);
}

// Weights exp((logit - greatest) / temperature).
struct Weigher {
  float greatest, scale;

  Weigher(float greatest_logit, double temperature)
      : greatest(greatest_logit), scale(float(1.4426950408889634 / temperature)) {}

  PYRO_INLINE f32x16 operator()(f32x16 logits) const {
    return weight((logits - set1(greatest)) * set1(scale));
  }
  // The logit, not rounded to float32, of a weight > 0; at least the least float.
  double inverse(double weight) const {
    return std::max(double(-FLT_MAX), greatest + std::log2(weight) / scale);
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

// Draws one of the n tokens inside the cut: its index; n_kept tells how many there are.
inline int64_t draw(const float *logits, int64_t n, const Weigher &weigher, Cut cut, double u,
                    Scratch &s, int64_t &n_kept) {
  int64_t n_blocks = 0;
  n_kept = 0;
  Inside inside(cut);
  const bool all = cut.value == -FLT_MAX && cut.n_ties == kAllTies;
  for (int64_t begin = 0; begin < n; begin += kBlock, n_blocks++) {
    int64_t end = std::min(n, begin + kBlock), i = begin;
    s.block_ties[n_blocks] = inside.ties_left;
    f32x16 a = set1(0.0f), b = a;
    if (all) {  // the weight of -inf is 0 anyway
      for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
        f32x16 x = load(logits + i), y = load(logits + i + kLanes);
        a = a + weigher(x);
        b = b + weigher(y);
        n_kept += count(inside(x) | inside(y) << kLanes);
      }
    }
    for (; i < end; i += 2 * kLanes) {
      f32x16 x = load_n(logits + i, end - i, -INFINITY);
      f32x16 y = load_n(logits + i + kLanes, end - i - kLanes, -INFINITY);
      Mask mx = inside(x), my = inside(y);
      if (!(mx | my)) continue;
      a = a + blend(mx, weigher(x), set1(0.0f));
      b = b + blend(my, weigher(y), set1(0.0f));
      n_kept += count(mx | my << kLanes);
    }
    s.block_sums[n_blocks] = reduce_add(a + b);
  }
  return draw_from_blocks(logits, n, weigher, cut, u, n_blocks, s);
}

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
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 x = load_n(z + i, n - i, -INFINITY);
    Mask m = at_least(x, least);
    if (!m) continue;
    compress(to.logits + to.n, x, m);
    compress(to.ids + to.n, lane_ids(int32_t(i)), m);
    to.n += count(m);
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

// A lower bound of the k-th greatest value: the k-th greatest of the maxima of at least 4 k groups.
// -FLT_MAX if that would take groups of a few values.  `groups`: as scan left them.
inline float bound_of_kth(const float *z, int64_t n, int64_t k, const float *groups, Scratch &s) {
  int64_t n_vectors = n / kLanes, stride = kStride;
  while (stride > 1 && n_vectors / stride * kLanes < 4 * k) stride /= 4;
  if (stride == 1) return -FLT_MAX;
  int64_t n_groups = n_vectors / stride * kLanes;
  if (stride < kStride) {
    for (int64_t g = 0; g < n_groups; g += kLanes) {
      const float *from = z + g * stride;
      f32x16 greatest = set1(-FLT_MAX);
      for (int64_t i = 0; i < stride; i++) greatest = quick_max(greatest, load(from + i * kLanes));
      store(s.keys + g, greatest);
    }
    groups = s.keys;
  }
  return select_count(groups, n_groups, k, s.select).value;
}

// Stage 10, by closeness to the mean logit.  The mean is found in two steps and kept as the sum of
// two floats: a distance is then exact to its own last places, however far the greatest logit is.
inline void cut_typical(List &list, double typical_p, const Weigher &weigher, Scratch &s) {
  double total = weigher.weigh(list.logits, list.n, s.select.weights);
  float mean = weigher.greatest;
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
