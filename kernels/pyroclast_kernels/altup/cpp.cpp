// altup_predict, altup_correct, match_rms: a token's residual streams.  One token per item.
// Coefficients come from the RMS norm of one row (norm/cpp/rows.h) and a dot product for each
// stream, in 16 lanes folded by a fixed tree.
#include <algorithm>
#include <cmath>

#include "native/tanh.h"
#include "norm/cpp/rows.h"

namespace {

constexpr int64_t kMaxStreams = 8;

struct AltupPredictArgs {
  const int64_t *n_tokens;
  float *streams;
  const float *weight;
  const float *router;
  const float *coefs;
  float *out;
  int64_t d_model;
  int64_t n_streams;
  int64_t stream_stride;
  double eps;
  double scale;
};

struct AltupCorrectArgs {
  const int64_t *n_tokens;
  float *streams;
  const float *predicted;
  const float *weight;
  const float *router;
  const float *coefs;
  const float *out_scale;
  float *out;
  int64_t d_model;
  int64_t n_streams;
  int64_t stream_stride;
  double eps;
  double scale;
};

struct MatchRmsArgs {
  const int64_t *n_tokens;
  const float *x;
  float *y;
  int64_t d_model;
  double floor;
};

// m[k] = tanh(router[k] . (scale * N(x))) of every stream.
template <class Args>
PYRO_INLINE void modalities(const Args &a, const float *x, float *m) {
  const int64_t d = a.d_model, n = a.n_streams;
  const RowNorm row = norm_of_row<kRmsNorm>(x, d, float(a.eps));
  const f32x16 scale = set1(float(a.scale));
  f32x16 sums[kMaxStreams];
  for (int64_t k = 0; k < n; k++) sums[k] = set1(0.0f);
  for (int64_t i = 0; i < d; i += kLanes) {
    const f32x16 y = normed<kRmsNorm>(row, x, a.weight, nullptr, i, d - i) * scale;
    for (int64_t k = 0; k < n; k++) sums[k] = fma(y, load_n(a.router + k * d + i, d - i), sums[k]);
  }
  alignas(64) float routed[kLanes] = {};
  for (int64_t k = 0; k < n; k++) routed[k] = reduce_add(sums[k]);
  alignas(64) float found[kLanes];
  store(found, tanh(load(routed)));
  std::copy(found, found + n, m);
}

// first + row . m, from left to right.
PYRO_INLINE float combined(const float *row, const float *m, int64_t n, float first) {
  for (int64_t k = 0; k < n; k++) first = fma1(row[k], m[k], first);
  return first;
}

// Columns i .. i + 15 of every stream: all old values are read before a new one is written.
PYRO_INLINE void predict_columns(const AltupPredictArgs &a, float *x, const float *c, int64_t i) {
  const int64_t n = a.n_streams, left = a.d_model - i;
  f32x16 old[kMaxStreams];
  for (int64_t j = 0; j < n; j++) old[j] = load_n(x + j * a.stream_stride + i, left);
  for (int64_t j = 0; j < n; j++) {
    f32x16 sum = old[j];
    for (int64_t k = 0; k < n; k++) sum = fma(set1(c[j * n + k]), old[k], sum);
    store_n(x + j * a.stream_stride + i, sum, left);
  }
}

void altup_predict(const void *args, int part, int n_parts) {
  const AltupPredictArgs &a = *static_cast<const AltupPredictArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  const int64_t n = a.n_streams, d = a.d_model;
  for (int64_t t = mine.begin; t < mine.end; t++) {
    float *x = a.streams + t * d;
    float m[kMaxStreams], c[kMaxStreams * kMaxStreams];
    modalities(a, x, m);
    for (int64_t k = 0; k < n * n; k++) c[k] = combined(a.coefs + k * n, m, n, 0.0f);
    for (int64_t i = 0; i < d; i += kLanes) predict_columns(a, x, c, i);
    std::copy(x, x + d, a.out + t * d);
  }
}

void altup_correct(const void *args, int part, int n_parts) {
  const AltupCorrectArgs &a = *static_cast<const AltupCorrectArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  const int64_t n = a.n_streams, d = a.d_model;
  for (int64_t t = mine.begin; t < mine.end; t++) {
    float *x = a.streams + t * d, *out = a.out + t * d;
    const float *predicted = a.predicted + t * d;
    float m[kMaxStreams], c[kMaxStreams];
    modalities(a, x, m);
    for (int64_t k = 0; k < n; k++) c[k] = combined(a.coefs + k * n, m, n, 1.0f);
    for (int64_t i = 0; i < d; i += kLanes) {
      const int64_t left = d - i;
      const f32x16 before = load_n(predicted + i, left), change = load_n(x + i, left) - before;
      const f32x16 first = fma(set1(c[0]), change, before);
      store_n(x + i, first, left);
      for (int64_t j = 1; j < n; j++) {
        float *other = x + j * a.stream_stride + i;
        store_n(other, fma(set1(c[j]), change, load_n(other, left)), left);
      }
      store_n(out + i, a.out_scale ? first * load_n(a.out_scale + i, left) : first, left);
    }
  }
}

PYRO_INLINE float mean_of_squares(const float *x, int64_t n) {
  f32x16 squares = set1(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const f32x16 v = load_n(x + i, n - i);
    squares = fma(v, v, squares);
  }
  return reduce_add(squares) / float(n);
}

void match_rms(const void *args, int part, int n_parts) {
  const MatchRmsArgs &a = *static_cast<const MatchRmsArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  const int64_t d = a.d_model;
  for (int64_t t = mine.begin; t < mine.end; t++) {
    float *y = a.y + t * d;
    const float wanted = std::sqrt(mean_of_squares(a.x + t * d, d)), own = mean_of_squares(y, d);
    const float floor = float(a.floor);
    // A NaN stays one.
    const f32x16 factor = set1(wanted / std::sqrt(own < floor ? floor : own));
    for (int64_t i = 0; i < d; i += kLanes) store_n(y + i, load_n(y + i, d - i) * factor, d - i);
  }
}

PYRO_KERNEL("altup_predict.f32", altup_predict);
PYRO_KERNEL("altup_correct.f32", altup_correct);
PYRO_KERNEL("match_rms.f32", match_rms);

}  // namespace
