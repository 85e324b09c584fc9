// quantize: float32 activations to 8-bit blocks of 32.
// glu: out[t, i] = f(gate[t, i]) * up[t, i], or f(gate[t, i]) where there is no up, f one of
// gate.h; float32, and quantized for the product that follows.  In both, items are blocks of 32
// columns of a token, so that one token's work can be shared by several threads.
#include <algorithm>

#include "gate.h"
#include "quantize.h"

namespace {

constexpr int64_t kRun = 512;  // columns that are quantized while they are in the L1 cache

struct QuantizeArgs {
  const int64_t *n_tokens;
  const float *x;
  Q8Block *out_q8;
  int64_t n_cols;
};

void quantize(const void *args, int part, int n_parts) {
  const QuantizeArgs &a = *static_cast<const QuantizeArgs *>(args);
  const Range mine = split(*a.n_tokens * (a.n_cols / 32), part, n_parts);
  quantize_row(a.x + 32 * mine.begin, 32 * (mine.end - mine.begin), a.out_q8 + mine.begin);
}

struct GluArgs {
  const int64_t *n_tokens;
  const float *gate_up;
  float *out;
  Q8Block *out_q8;
  int64_t d_ff;
  int64_t activation;
  int64_t gated;
};

// out = f(gate), times up where there is one.
template <class F>
PYRO_INLINE void apply(F f, const float *gate, const float *up, int64_t n, float *out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 y = f(load_n(gate + i, n - i));
    if (up) y = y * load_n(up + i, n - i);
    store_n(out + i, y, n - i);
  }
}

// A loop for each function, so that its constants stay in registers.
void activate(int64_t activation, const float *gate, const float *up, int64_t n, float *out) {
  switch (activation) {
    case kSilu:
      return apply([](f32x16 g) { return silu(g); }, gate, up, n, out);
    case kGeluTanh:
      return apply([](f32x16 g) { return gelu_tanh(g); }, gate, up, n, out);
    case kGelu:
      return apply([](f32x16 g) { return gelu(g); }, gate, up, n, out);
    case kRelu:
      return apply([](f32x16 g) { return relu(g); }, gate, up, n, out);
    default:
      return apply([](f32x16 g) { return relu2(g); }, gate, up, n, out);
  }
}

void glu(const void *args, int part, int n_parts) {
  const GluArgs &a = *static_cast<const GluArgs *>(args);
  const int64_t blocks = (a.d_ff + 31) / 32;
  const Range mine = split(*a.n_tokens * blocks, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end;) {
    const int64_t t = item / blocks, block = item % blocks, column = block * 32;
    const int64_t n_blocks = std::min({kRun / 32, blocks - block, mine.end - item});
    const int64_t n = std::min(n_blocks * 32, a.d_ff - column);
    const float *gate = a.gate_up + t * (a.gated ? 2 : 1) * a.d_ff + column, *up = gate + a.d_ff;
    alignas(64) float y[kRun];
    float *out = a.out ? a.out + t * a.d_ff + column : y;
    activate(a.activation, gate, a.gated ? up : nullptr, n, out);
    if (a.out_q8) quantize_row(out, n, a.out_q8 + t * blocks + block);
    item += n_blocks;
  }
}

PYRO_KERNEL("quantize.f32", quantize);
PYRO_KERNEL("glu.f32", glu);

}  // namespace
