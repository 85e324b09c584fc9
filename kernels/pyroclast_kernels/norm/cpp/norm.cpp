// norm: RMS or layer norm of each token's row, as rows.h says; float32, and quantized for the
// product that follows.  With `rows`, row i of the output is row rows[i] of x.  One token per item.
#include <algorithm>

#include "activation/cpp/quantize.h"
#include "norm/cpp/rows.h"

namespace {

constexpr int64_t kRun = 512;  // columns that are quantized while they are in the L1 cache

struct NormArgs {
  const int64_t *n_tokens;
  const int32_t *rows;
  const float *x;
  const float *weight;
  const float *bias;
  float *out;
  Q8Block *out_q8;
  int64_t d_model;
  double eps;
  int64_t kind;
};

template <int64_t kKind>
void norm_rows(const NormArgs &a, Range mine) {
  // Fetched while the squares of the first row are summed up.
  if (mine.begin < mine.end)
    for (int64_t i = 0; i < a.d_model; i += kLanes) __builtin_prefetch(a.weight + i);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const float *x = a.x + (a.rows ? a.rows[t] : t) * a.d_model;
    const RowNorm row = norm_of_row<kKind>(x, a.d_model, float(a.eps));
    for (int64_t i = 0; i < a.d_model; i += kRun) {
      alignas(64) float y[kRun];
      const int64_t first = t * a.d_model + i, n = std::min(kRun, a.d_model - i);
      float *out = a.out ? a.out + first : y;
      for (int64_t j = 0; j < n; j += kLanes)
        store_n(out + j, normed<kKind>(row, x, a.weight, a.bias, i + j, n - j), n - j);
      if (a.out_q8) quantize_row(out, n, a.out_q8 + first / 32);
    }
  }
}

void norm(const void *args, int part, int n_parts) {
  const NormArgs &a = *static_cast<const NormArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  if (a.kind == kLayerNorm)
    norm_rows<kLayerNorm>(a, mine);
  else
    norm_rows<kRmsNorm>(a, mine);
}

PYRO_KERNEL("norm.f32", norm);

}  // namespace
