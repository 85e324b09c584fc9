// $contract
// OP = "norm"
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

}  // namespace

extern "C" void norm_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    const float *x = a.x + (a.rows ? a.rows[t] : t) * a.d_model;
    double mean = 0, squares = 0;  // the mean of a layer norm; an RMS norm subtracts none
    for (int64_t i = 0; a.kind == 1 && i < a.d_model; i++) mean += double(x[i]) / double(a.d_model);
    for (int64_t i = 0; i < a.d_model; i++) {
      const float centred = float(x[i] - mean);
      squares += double(centred * centred);
    }
    const float scale = float(1.0 / std::sqrt(squares / double(a.d_model) + a.eps));
    float y[32];
    for (int64_t i = 0; i < a.d_model; i++) {
      y[i % 32] = float(x[i] - mean) * scale * a.weight[i] + (a.bias ? a.bias[i] : 0);
      if (a.out) a.out[t * a.d_model + i] = y[i % 32];
      if (a.out_q8 && i % 32 == 31) quantize_block(y, a.out_q8[(t * a.d_model + i) / 32]);
    }
  }
}
