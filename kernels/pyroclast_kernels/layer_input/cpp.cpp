// layer_input: the RMS norm of a projection (norm/cpp/rows.h) plus an embedding, through a gate
// (activation/cpp/gate.h).  One token per item.
#include <algorithm>

#include "activation/cpp/gate.h"
#include "activation/cpp/quantize.h"
#include "norm/cpp/rows.h"

namespace {

constexpr int64_t kRun = 512;  // columns that are quantized while they are in the L1 cache

struct LayerInputArgs {
  const int64_t *n_tokens;
  const float *gate;
  const float *embedded;
  const float *projected;
  const float *weight;
  float *out;
  Q8Block *out_q8;
  int64_t width;
  int64_t row_stride;
  int64_t activation;
  double eps;
  double scale;
};

void layer_input(const void *args, int part, int n_parts) {
  const LayerInputArgs &a = *static_cast<const LayerInputArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  const f32x16 scale = set1(float(a.scale));
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const float *gate = a.gate + t * a.width;
    const float *embedded = a.embedded + t * a.row_stride;
    const float *projected = a.projected + t * a.row_stride;
    const RowNorm row = norm_of_row<kRmsNorm>(projected, a.width, float(a.eps));
    for (int64_t i = 0; i < a.width; i += kRun) {
      alignas(64) float y[kRun];
      const int64_t n = std::min(kRun, a.width - i);
      float *out = a.out ? a.out + t * a.width + i : y;
      for (int64_t j = i; j < i + n; j += kLanes) {
        const int64_t left = a.width - j;
        const f32x16 norm = normed<kRmsNorm>(row, projected, a.weight, nullptr, j, left);
        const f32x16 added = (load_n(embedded + j, left) + norm) * scale;
        store_n(out + (j - i), gated(a.activation, load_n(gate + j, left), added), left);
      }
      if (a.out_q8) quantize_row(out, n, a.out_q8 + (t * a.width + i) / 32);
    }
  }
}

PYRO_KERNEL("layer_input.f32", layer_input);

}  // namespace
