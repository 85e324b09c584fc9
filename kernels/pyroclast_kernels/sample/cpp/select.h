// How far a prefix of the falling order reaches, without sorting: by count or by weight.
//
// Values are spread over the buckets of a histogram, from the largest down; the bucket in which
// the running sum reaches its goal is taken apart by the next level, and so on, until it holds one
// value.  Level 0 cuts the range of values evenly, which for logits leaves a few candidates.
// Later levels cut the range of their bit patterns, 10 bits a time, so there are at most 4 more
// whatever the values: no input is slow.  A long list is first narrowed to the neighbourhood of
// the goal, estimated from a sample; if its sums show that the estimate was wrong, it stays whole.
// A short list is sorted: that takes less time than clearing a histogram.
// Sums of histograms are float64; their order depends on n alone.
#pragma once

#include <algorithm>
#include <cfloat>

#include "lanes.h"

namespace sampling {

constexpr int64_t kBlock = 1024;  // tokens whose weights are summed together in float32
constexpr int64_t kAllTies = INT64_MAX;

// The prefix: every value above `value`, and the first `n_ties` (in array order) that equal it.
struct Cut {
  float value;
  int64_t n_ties;
};

constexpr int kBuckets = 1024;
constexpr int kCopies = 4;  // of each bucket, in turn: adding to one address is latency-bound
constexpr int64_t kMaxSample = 4096;
constexpr int64_t kLongList = 16384;
constexpr int64_t kShortList = 128;

// Candidates in scratch memory, which is used up; weights >= 0 and not all 0.
struct Active {
  float *values, *weights;  // room for n and 16 more
  int64_t n;
};

// Working memory of a part for selection.
struct SelectScratch {
  float *values, *weights;                // a whole vocabulary and 16 more
  float *sample_values, *sample_weights;  // [kMaxSample + 16]
  double *histogram;                      // [kBuckets][kCopies]
};

// Float bits as an integer of the same order.  Adding 0 makes the two zeros one.
PYRO_INLINE i32x16 ordered(f32x16 x) {
  i32x16 out;
  PYRO_EACH {
    NativeI bits = (NativeI)(x.v[r] + 0.0f);
    out.v[r] = bits ^ ((bits >> 31) & 0x7fffffff);
  }
  return out;
}
inline int32_t ordered(float x) {
  int32_t bits;
  x += 0.0f;
  std::memcpy(&bits, &x, 4);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

// Bucket of a value: 0 for the largest, a later one for the smallest; never rises with the value.
struct Spread {
  bool even;
  float maximum, scale;  // even
  int32_t key;           // bit patterns
  int shift;

  Spread(float least, float most, bool first_level) : maximum(most), key(ordered(most)) {
    float range = most - least;
    even = first_level && range <= FLT_MAX && (kBuckets - 1) / range <= FLT_MAX;
    scale = even ? (kBuckets - 1) / range : 0.0f;
    uint32_t keys = uint32_t(key) - uint32_t(ordered(least));
    shift = 0;
    while ((keys >> shift) >= uint32_t(kBuckets)) shift++;
  }
  PYRO_INLINE i32x16 operator()(f32x16 x) const {
    if (even) return to_int(min((set1(maximum) - x) * set1(scale), set1(kBuckets - 1)));
    typedef uint32_t NativeU __attribute__((vector_size(4 * kWidth)));
    i32x16 k = ordered(x);
    PYRO_EACH k.v[r] = (NativeI)(((NativeU)(NativeI{} + key) - (NativeU)k.v[r]) >> shift);
    return k;
  }
};

inline void least_and_most(const float *x, int64_t n, float &least, float &most) {
  f32x16 lo = set1(x[0]), hi = lo;
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 v = load_n(x + i, n - i, x[0]);
    lo = min(v, lo);
    hi = quick_max(v, hi);
  }
  float lanes[kLanes];
  store(lanes, lo);
  least = *std::min_element(lanes, lanes + kLanes);
  most = reduce_max(hi);
}

// Adds the weights up by bucket; returns the first bucket whose running sum, begun at `sum`,
// reaches `goal`, and leaves in `sum` what lies before it.  Rounding may keep the sum from its goal
// for ever: then it is the last bucket that holds anything.
inline int crossing(const Active &a, const Spread &spread, double *histogram, double goal,
                    double &sum) {
  std::fill(histogram, histogram + kBuckets * kCopies, 0.0);
  int32_t bucket[kLanes];
  for (int64_t i = 0; i < a.n; i += kLanes) {
    store_ints(bucket, spread(load_n(a.values + i, a.n - i, a.values[i])));
    const float *weights = a.weights + i;
    if (a.n - i >= kLanes) {
      for (int j = 0; j < kLanes; j++) histogram[bucket[j] * kCopies + j % kCopies] += weights[j];
    } else {
      for (int j = 0; j < a.n - i; j++) histogram[bucket[j] * kCopies + j % kCopies] += weights[j];
    }
  }
  int last = 0;
  double before_last = sum, running = sum;
  for (int b = 0; b < kBuckets; b++) {
    const double *h = histogram + b * kCopies;
    double here = (h[0] + h[1]) + (h[2] + h[3]);
    if (here <= 0.0) continue;
    last = b;
    before_last = running;
    running += here;
    if (running >= goal) break;
  }
  sum = before_last;
  return last;
}

// Keeps the candidates for whose 16 values `wanted` gives a mask, in place and in order.
template <class Wanted>
void keep_where(Active &a, Wanted wanted) {
  Active to{a.values, a.weights, 0};  // a local, which no store can change
  for (int64_t i = 0, n = a.n; i < n; i += kLanes) {
    f32x16 x = load(to.values + i), w = load(to.weights + i);
    Mask m = wanted(x) & lanes_below(n - i);
    if (!m) continue;
    compress(to.values + to.n, x, m);  // behind what has been read
    compress(to.weights + to.n, w, m);
    to.n += count(m);
  }
  a = to;
}

// How many of the equal values in `a`, in their order, bring the sum to its goal.
inline int64_t ties_needed(const Active &a, double goal, double sum) {
  float least, most;
  least_and_most(a.weights, a.n, least, most);
  int64_t n = 0;
  if (least == most) {  // no need to walk through what may be the whole vocabulary
    double needed = std::ceil((goal - sum) / most);
    n = needed < 1.0 ? 1 : needed < double(a.n) ? int64_t(needed) : a.n;
  } else {
    do sum += a.weights[n++];
    while (n < a.n && sum < goal);
  }
  return n == a.n ? kAllTies : n;
}

inline Cut select_short(const Active &a, double goal, double sum) {
  struct Candidate {
    float value;
    int32_t index;
  } order[kShortList];
  for (int32_t i = 0; i < a.n; i++) order[i] = {a.values[i], i};
  std::sort(order, order + a.n, [](const Candidate &x, const Candidate &y) {
    return x.value != y.value ? x.value > y.value : x.index < y.index;
  });
  int64_t last = 0, n_ties = 1;
  sum += a.weights[order[0].index];
  while (sum < goal && last + 1 < a.n) {
    last++;
    sum += a.weights[order[last].index];
    n_ties = order[last].value == order[last - 1].value ? n_ties + 1 : 1;
  }
  float value = order[last].value;
  bool all = last + 1 == a.n || order[last + 1].value != value;
  return {value, all ? kAllTies : n_ties};
}

inline Cut select_exactly(Active a, double goal, double sum, double *histogram) {
  for (bool first_level = true;; first_level = false) {
    if (a.n <= kShortList) return select_short(a, goal, sum);
    float least, most;
    least_and_most(a.values, a.n, least, most);
    if (least == most) return {most, ties_needed(a, goal, sum)};
    Spread spread(least, most, first_level);
    i32x16 bucket = set1i(crossing(a, spread, histogram, goal, sum));
    keep_where(a, [spread, bucket](f32x16 x) { return equal(spread(x), bucket); });
  }
}

// Every so many-th 16 of n >= kLongList values, a 32nd of them all or kMaxSample.  weigh(values,
// first index, n) gives the weights.
template <class Weigh>
Active take_sample(const float *values, int64_t n, const SelectScratch &s, Weigh weigh) {
  int64_t n_vectors = std::min(n / 32, kMaxSample) / kLanes;
  int64_t stride = n / n_vectors / kLanes * kLanes;
  for (int64_t i = 0; i < n_vectors; i++) {
    f32x16 x = load(values + i * stride);
    store(s.sample_values + i * kLanes, x);
    store(s.sample_weights + i * kLanes, weigh(x, i * stride));
  }
  return {s.sample_values, s.sample_weights, n_vectors * kLanes};
}

// Two values that, judged by a sample, almost certainly enclose the end of the prefix with `share`
// of the weight.  False if too few tokens carry the weight for a sample to tell.
template <class Weigh>
bool bracket(const float *values, int64_t n, double share, const SelectScratch &s, Weigh weigh,
             float &lower, float &upper) {
  Active sample = take_sample(values, n, s, weigh);
  double total = 0.0, squares = 0.0;
  for (int64_t i = 0; i < sample.n; i += kLanes) {
    f32x16 w = load(sample.weights + i);
    total += reduce_add(w);
    squares += reduce_add(w * w);
  }
  double noise = 3.0 * std::sqrt(share * (1.0 - share) * squares) / total + 2.0 / double(sample.n);
  if (!(noise < 0.2)) return false;  // also if the weights are all 0
  upper = FLT_MAX;
  lower = -FLT_MAX;
  if (share > noise)
    upper = select_exactly(sample, (share - noise) * total, 0.0, s.histogram).value;
  if (share + noise < 1.0) {
    sample = take_sample(values, n, s, weigh);
    lower = select_exactly(sample, (share + noise) * total, 0.0, s.histogram).value;
  }
  return true;
}

// Leaves only the values of a bracket around the goal, if the weights above its ends show that it
// is one; `total` is the weight of all candidates.
inline void narrow(Active &a, double goal, double total, double &sum, const SelectScratch &s) {
  float lower, upper;
  const float *weights = a.weights;
  auto weigh = [weights](f32x16, int64_t i) { return load(weights + i); };
  if (!bracket(a.values, a.n, goal / total, s, weigh, lower, upper)) return;
  double not_above = 0.0, from_lower = 0.0;
  f32x16 hi = set1(upper), lo = set1(lower);
  for (int64_t i = 0; i < a.n; i += kBlock) {
    f32x16 x_sum = set1(0.0f), y_sum = x_sum;
    for (int64_t j = i; j < std::min(a.n, i + kBlock); j += kLanes) {
      f32x16 x = load(a.values + j), w = load_n(a.weights + j, a.n - j, 0.0f);
      x_sum = x_sum + where_at_least(hi, x, w);
      y_sum = y_sum + where_at_least(x, lo, w);
    }
    not_above += reduce_add(x_sum);
    from_lower += reduce_add(y_sum);
  }
  if (sum + total - not_above >= goal || sum + from_lower < goal) return;
  sum += total - not_above;
  keep_where(a, [lo, hi](f32x16 x) { return at_least(x, lo) & at_least(hi, x); });
}

// The shortest prefix whose weights reach `goal`, 0 < goal <= total = the sum of all weights.
inline Cut select(Active a, double goal, double total, const SelectScratch &scratch) {
  double sum = 0.0;
  if (a.n >= kLongList) narrow(a, goal, total, sum, scratch);
  return select_exactly(a, goal, sum, scratch.histogram);
}

// The first k of the n values; 1 <= k <= n, none of them -inf.
inline Cut select_count(const float *values, int64_t n, int64_t k, const SelectScratch &scratch) {
  std::memcpy(scratch.values, values, size_t(n) * sizeof(float));
  std::fill(scratch.weights, scratch.weights + n, 1.0f);
  return select({scratch.values, scratch.weights, n}, double(k), double(n), scratch);
}

}  // namespace sampling
