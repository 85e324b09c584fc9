// softmax: one row of logits to probabilities or log-probabilities, float32, any alignment.
//
// A long row takes two passes.  Pass 1: weights 2^((z - estimate) * scale), scale = log2(e) /
// temperature, and their sum, 16 float32 lanes for 1024 values, then float64; an estimate of the
// maximum logit is raised on the way (weigh.h).  For logarithms only the sum.  Pass 2: times
// 1 / sum, or the difference to its logarithm.
// Where that fails (an infinity, a spread that lets weights underflow, logits that `out`
// overwrites: a bias and a mask are applied there), one pass more finds the maximum first.
// A row's length need not be a multiple of 16: the tail goes through the same lanes, padded.
#include <cmath>

#include "native/abi.h"
#include "sample/cpp/weigh.h"

namespace {

using namespace sampling;

struct SoftmaxArgs {
  const float *logits;
  const int64_t *n_rows;
  const double *temperatures;
  const float *bias;
  const uint32_t *allowed;
  float *out;
  int64_t n_cols;
  int64_t logits_stride;
  int64_t out_stride;
  int64_t log;
};

constexpr double kMinTemperature = 1e-5;

void adjust(const float *logits, const float *bias, const uint32_t *allowed, float *out,
            int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 z = load_n(logits + i, n - i, 0.0f);
    if (bias) z = z + load_n(bias + i, n - i, 0.0f);
    if (allowed) z = blend(allowed[i / 32] >> (i % 32) & kAllLanes, z, set1(-INFINITY));
    store_n(out + i, z, n - i);
  }
}

// f from 16 values of z to 16 of out.
template <class F>
PYRO_INLINE void each(const float *z, float *out, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(z + i)));
  if (i < n) store_n(out + i, f(load_n(z + i, n - i, 0.0f)), n - i);
}

// Weights to `out`; returns their sum.
double weigh(const float *z, float *out, int64_t n, Weigher &weigher) {
  if (weigher.plain) return weigh_blocks<true>(z, n, weigher, nullptr, out).total;
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t end = std::min(n, begin + kBlock);
    f32x16 a = set1(0.0f), b = a;
    for (int64_t i = begin; i < end; i += 2 * kLanes) {
      f32x16 x = weigher(load_n(z + i, end - i, -INFINITY));
      f32x16 y = weigher(load_n(z + i + kLanes, end - i - kLanes, -INFINITY));
      a = a + x;
      b = b + y;
      store_n(out + i, x, end - i);
      store_n(out + i + kLanes, y, end - i - kLanes);
    }
    total += reduce_add(a + b);
  }
  return total;
}

void log_softmax(const float *z, float *out, int64_t n, float maximum, double temperature,
                 double total) {
  f32x16 top = set1(maximum), scale = set1(float(1.0 / temperature));
  f32x16 log_total = set1(float(std::log(total)));
  each(z, out, n, [&](f32x16 x) { return (x - top) * scale - log_total; });
}

// The same in two passes instead of three, unless a weight underflows: then false.
bool softmax_at_once(const float *z, float *out, int64_t n, double temperature, bool log) {
  // If it returns false, the logits must be as they were.
  if (n < kLongList || z == out || temperature < kMinTemperature) return false;
  const float estimate = maximum_of_some(z, n);
  Weigher weigher({estimate, estimate}, temperature);
  if (log) {
    Weighed found = weigh_blocks<false>(z, n, weigher, nullptr, nullptr);
    if (!found.good) return false;
    // Relative to the maximum itself: the difference of two large numbers would lose places.
    double shift = (double(found.maximum) - weigher.maximum) / temperature;
    log_softmax(z, out, n, found.maximum, temperature, found.total * std::exp(-shift));
  } else {
    Weighed found = weigh_blocks<true>(z, n, weigher, nullptr, out);
    if (!found.good) return false;
    multiply(out, n, float(1.0 / found.total));
  }
  return true;
}

void softmax_row(const float *z, float *out, int64_t n, double temperature, bool log) {
  if (softmax_at_once(z, out, n, temperature, log)) return;
  Extremes extremes;
  bool numbers = scan(z, n, nullptr, extremes);
  const float maximum = extremes.maximum;
  if (!numbers || !std::isfinite(maximum)) {
    std::fill(out, out + n, NAN);
    return;
  }
  if (temperature < kMinTemperature) {
    int64_t first = first_equal(z, n, maximum);
    std::fill(out, out + n, log ? -INFINITY : 0.0f);
    out[first] = log ? 0.0f : 1.0f;
    return;
  }
  Weigher weigher(extremes, temperature);
  if (log)
    log_softmax(z, out, n, maximum, temperature, sum_weights(z, n, weigher));
  else
    multiply(out, n, float(1.0 / weigh(z, out, n, weigher)));
}

void softmax(const void *args, int part, int n_parts) {
  const SoftmaxArgs &a = *static_cast<const SoftmaxArgs *>(args);
  const int64_t n_words = (a.n_cols + 31) / 32;
  Range rows = split(*a.n_rows, part, n_parts);
  for (int64_t r = rows.begin; r < rows.end; r++) {
    const float *z = a.logits + r * a.logits_stride;
    float *out = a.out + r * a.out_stride;
    if (a.bias || a.allowed) {
      adjust(z, a.bias, a.allowed ? a.allowed + r * n_words : nullptr, out, a.n_cols);
      z = out;
    }
    softmax_row(z, out, a.n_cols, a.temperatures ? a.temperatures[r] : 1.0, a.log != 0);
  }
}

}  // namespace

PYRO_KERNEL("softmax.f32", softmax);
