// gated_norm: the RMS norm of each group of a token's columns (norm/cpp/rows.h), with a gate; one
// token per item.  sigmoid_gate: x times the logistic function of a gate; items are blocks of 32
// columns of a token.
#include <algorithm>

#include "activation/cpp/gate.h"
#include "activation/cpp/quantize.h"
#include "native/softplus.h"
#include "norm/cpp/rows.h"

namespace {

constexpr int64_t kRun = 512;      // columns that are quantized while they are in the L1 cache
constexpr int64_t kGateFirst = 1;  // KINDS of __init__.py

struct GatedNormArgs {
  const int64_t *n_tokens;
  const float *x;
  const float *gate;
  const float *weight;
  float *out;
  Q8Block *out_q8;
  int64_t n_groups;
  int64_t width;
  int64_t gate_stride;
  int64_t weight_stride;
  double eps;
  int64_t kind;
};

PYRO_INLINE f32x16 gated_x(const float *x, const float *gate, int64_t n) {
  return load_n(x, n) * silu(load_n(gate, n));
}

// What x silu(gate) is multiplied by: 1 over the root of the mean of the squares, of x, or, gated
// first, of the product, which is computed once more for the result.
PYRO_INLINE f32x16 scale_of(const GatedNormArgs &a, const float *x, const float *gate) {
  f32x16 squares = set1(0.0f);
  for (int64_t i = 0; i < a.width; i += kLanes) {
    const int64_t n = a.width - i;
    f32x16 v = load_n(x + i, n);
    if (a.kind == kGateFirst) v = gated_x(x + i, gate + i, n);
    squares = fma(v, v, squares);
  }
  return set1(1.0f / std::sqrt(reduce_add(squares) / float(a.width) + float(a.eps)));
}

void gated_norm(const void *args, int part, int n_parts) {
  const GatedNormArgs &a = *static_cast<const GatedNormArgs *>(args);
  const Range mine = split(*a.n_tokens * a.n_groups, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t t = item / a.n_groups, group = item % a.n_groups;
    const float *x = a.x + item * a.width, *weight = a.weight + group * a.weight_stride;
    const float *gate = a.gate + t * a.gate_stride + group * a.width;
    const f32x16 scale = scale_of(a, x, gate);
    for (int64_t i = 0; i < a.width; i += kRun) {
      alignas(64) float y[kRun];
      const int64_t first = item * a.width + i, n = std::min(kRun, a.width - i);
      float *out = a.out ? a.out + first : y;
      for (int64_t j = 0; j < n; j += kLanes) {
        const f32x16 v = gated_x(x + i + j, gate + i + j, n - j) * scale;
        store_n(out + j, v * load_n(weight + i + j, n - j), n - j);
      }
      if (a.out_q8) quantize_row(out, n, a.out_q8 + first / 32);
    }
  }
}

struct SigmoidGateArgs {
  const int64_t *n_tokens;
  float *x;
  const float *gate;
  Q8Block *out_q8;
  int64_t n_cols;
  int64_t gate_stride;
};

void sigmoid_gate(const void *args, int part, int n_parts) {
  const SigmoidGateArgs &a = *static_cast<const SigmoidGateArgs *>(args);
  const int64_t blocks = (a.n_cols + 31) / 32;
  const Range mine = split(*a.n_tokens * blocks, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t t = item / blocks, column = item % blocks * 32;
    const int64_t n = std::min<int64_t>(32, a.n_cols - column);
    float *x = a.x + t * a.n_cols + column;
    const float *gate = a.gate + t * a.gate_stride + column;
    for (int64_t i = 0; i < n; i += kLanes)
      store_n(x + i, load_n(x + i, n - i) * sigmoid(load_n(gate + i, n - i)), n - i);
    if (a.out_q8) quantize_row(x, n, a.out_q8 + item);
  }
}

PYRO_KERNEL("gated_norm.f32", gated_norm);
PYRO_KERNEL("sigmoid_gate.f32", sigmoid_gate);

}  // namespace
