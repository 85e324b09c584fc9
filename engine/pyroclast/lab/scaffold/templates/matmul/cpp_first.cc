// $contract
// OP = "matmul"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  const float *x;
  const float *weight;
  const float *bias;
  float *out;
  int64_t n_rows;
  int64_t n_cols;
  int64_t out_stride;
  int64_t accumulate;
};

}  // namespace

extern "C" void matmul_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = a.n_rows;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t row = n * part / n_parts; row < n * (part + 1) / n_parts; row++) {
    // Weights are packed: 16 rows side by side, column after column (weights/packing.py).
    const float *weight = a.weight + row / 16 * 16 * a.n_cols + row % 16;
    for (int64_t t = 0; t < *a.n_tokens; t++) {
      float total = 0;
      for (int64_t k = 0; k < a.n_cols; k++) total += weight[k * 16] * a.x[t * a.n_cols + k];
      if (a.bias) total += a.bias[row];
      float &out = a.out[t * a.out_stride + row];
      out = a.accumulate ? out + total : total;
    }
  }
}
