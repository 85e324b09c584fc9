// softmax: one row of logits to probabilities or log-probabilities, float32, any alignment.
//
// Pass 1: the greatest value, and whether one is NaN; a bias or a mask is applied here, into `out`.
// Pass 2: weights 2^((z - greatest) * scale), scale = log2(e) / temperature, and their sum, 16
//         float32 lanes for 1024 values, then float64.  For logarithms only the sum.
// Pass 3: times 1 / sum, or the difference to its logarithm.
// A row's length need not be a multiple of 16: the tail goes through the same lanes, padded.
#include <cmath>

#include "native/abi.h"
#include "sample/list.h"

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

double weigh(const float *z, float *out, int64_t n, const Weigher &weigher) {
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    int64_t end = std::min(n, begin + kBlock);
    f32x16 a = set1(0.0f), b = a;
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      f32x16 x = weigher(load(z + i)), y = weigher(load(z + i + kLanes));
      a = a + x;
      b = b + y;
      store(out + i, x);
      store(out + i + kLanes, y);
    }
    for (; i < end; i += kLanes) {
      f32x16 x = weigher(load_n(z + i, end - i, -INFINITY));
      a = a + x;
      store_n(out + i, x, end - i);
    }
    total += reduce_add(a + b);
  }
  return total;
}

void softmax_row(const float *z, float *out, int64_t n, double temperature, bool log) {
  float greatest;
  if (!scan(z, n, nullptr, greatest) || !std::isfinite(greatest)) {
    std::fill(out, out + n, NAN);
    return;
  }
  if (temperature < kMinTemperature) {
    int64_t first = first_equal(z, n, greatest);
    std::fill(out, out + n, log ? -INFINITY : 0.0f);
    out[first] = log ? 0.0f : 1.0f;
    return;
  }
  Weigher weigher(greatest, temperature);
  f32x16 top = set1(greatest);
  if (log) {
    f32x16 scale = set1(float(1.0 / temperature));
    f32x16 log_total = set1(float(std::log(sum_over(z, n, -FLT_MAX, weigher))));
    each(z, out, n, [&](f32x16 x) { return (x - top) * scale - log_total; });
  } else {
    f32x16 inverse = set1(float(1.0 / weigh(z, out, n, weigher)));
    each(out, out, n, [&](f32x16 w) { return w * inverse; });
  }
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
