// quantize: float32 activations to 8-bit blocks of 32.
// swiglu: out[t, i] = silu(gate[t, i]) * up[t, i], silu(g) = g / (1 + exp(-g)); float32, and
// quantized for the product that follows.  In both, items are blocks of 32 columns of a token, so
// that one token's work can be shared by several threads.
#include <algorithm>

#include "quantize.h"
#include "silu.h"

namespace {

struct QuantizeArgs {
  const int64_t *n_tokens;
  const float *x;
  Q8Block *out_q8;
  int64_t n_cols;
};

void quantize(const void *args, int part, int n_parts) {
  const QuantizeArgs &a = *static_cast<const QuantizeArgs *>(args);
  const Range mine = split(*a.n_tokens * (a.n_cols / 32), part, n_parts);
  for (int64_t i = mine.begin; i < mine.end; i++) quantize_block(a.x + 32 * i, a.out_q8[i]);
}

struct SwigluArgs {
  const int64_t *n_tokens;
  const float *gate_up;
  float *out;
  Q8Block *out_q8;
  int64_t d_ff;
};

void swiglu(const void *args, int part, int n_parts) {
  const SwigluArgs &a = *static_cast<const SwigluArgs *>(args);
  const int64_t blocks = (a.d_ff + 31) / 32;
  const Range mine = split(*a.n_tokens * blocks, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t t = item / blocks, column = item % blocks * 32;
    const float *gate = a.gate_up + t * 2 * a.d_ff + column, *up = gate + a.d_ff;
    const int64_t n = std::min<int64_t>(32, a.d_ff - column);
    alignas(64) float y[32];
    for (int i = 0; i < 32; i += kLanes)
      store(y + i, silu(load_n(gate + i, n - i)) * load_n(up + i, n - i));
    if (a.out) std::memcpy(a.out + t * a.d_ff + column, y, size_t(n) * sizeof(float));
    if (a.out_q8) quantize_block(y, a.out_q8[t * blocks + column / 32]);
  }
}

PYRO_KERNEL("quantize.f32", quantize);
PYRO_KERNEL("swiglu.f32", swiglu);

}  // namespace
