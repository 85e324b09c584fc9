// norm: RMS norm of each token's row, out = x / sqrt(mean(x^2) + eps) * weight; float32, and
// quantized for the product that follows.  With `rows`, row i of the output is row rows[i] of x.
// The sum of squares runs in 16 float32 lanes, folded by a fixed tree; one token per item.
#include <algorithm>

#include "activation/cpp/quantize.h"

namespace {

constexpr int64_t kRun = 512;  // columns that are quantized while they are in the L1 cache

struct NormArgs {
  const int64_t *n_tokens;
  const int32_t *rows;
  const float *x;
  const float *weight;
  float *out;
  Q8Block *out_q8;
  int64_t d_model;
  double eps;
};

void norm(const void *args, int part, int n_parts) {
  const NormArgs &a = *static_cast<const NormArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  // Fetched while the squares of the first row are summed up.
  if (mine.begin < mine.end)
    for (int64_t i = 0; i < a.d_model; i += kLanes) __builtin_prefetch(a.weight + i);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const float *x = a.x + (a.rows ? a.rows[t] : t) * a.d_model;
    f32x16 squares = set1(0.0f);
    for (int64_t i = 0; i < a.d_model; i += kLanes) {
      const f32x16 v = load_n(x + i, a.d_model - i);
      squares = fma(v, v, squares);
    }
    const f32x16 scale =
        set1(1.0f / std::sqrt(reduce_add(squares) / float(a.d_model) + float(a.eps)));
    for (int64_t i = 0; i < a.d_model; i += kRun) {
      alignas(64) float y[kRun];
      const int64_t first = t * a.d_model + i, n = std::min(kRun, a.d_model - i);
      float *out = a.out ? a.out + first : y;
      for (int64_t j = 0; j < n; j += kLanes)
        store_n(out + j, load_n(x + i + j, n - j) * scale * load_n(a.weight + i + j, n - j), n - j);
      if (a.out_q8) quantize_row(out, n, a.out_q8 + first / 32);
    }
  }
}

PYRO_KERNEL("norm.f32", norm);

}  // namespace
