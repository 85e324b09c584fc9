// $contract
// OP = "glu"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

#include "../quantize_block.h"

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  const float *gate_up;
  float *out;
  Q8Block *out_q8;
  int64_t d_ff;
  int64_t activation;
  int64_t gated;
};

double activated(int64_t activation, double g) {
  // In float64 no exponential of a float32 that matters overflows.
  const double u = 0.7978845608028654 * g * (1 + 0.044715 * g * g), positive = g < 0 ? 0 : g;
  if (activation == 0) return g / (1 + std::exp(-g));
  if (activation == 1) return g / (1 + std::exp(-2 * u));
  if (activation == 2) return g / 2 * std::erfc(-g * 0.7071067811865476);
  return activation == 3 ? positive : positive * positive;
}

}  // namespace

extern "C" void glu_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    const float *gate = a.gate_up + t * (a.gated ? 2 : 1) * a.d_ff, *up = gate + a.d_ff;
    float y[32];
    for (int64_t i = 0; i < a.d_ff; i++) {
      y[i % 32] = float(activated(a.activation, gate[i]));
      if (a.gated) y[i % 32] *= up[i];
      if (a.out) a.out[t * a.d_ff + i] = y[i % 32];
      if (a.out_q8 && i % 32 == 31) quantize_block(y, a.out_q8[(t * a.d_ff + i) / 32]);
    }
  }
}
