// $contract
// OP = "embed"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  const int32_t *token_ids;
  const float *weight;
  float *out;
  int64_t n_cols;
  double scale;
  int64_t accumulate;
};

}  // namespace

extern "C" void embed_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    // Packed: 16 rows side by side, column after column (weights/packing.py).
    const int64_t row = a.token_ids[t];
    const float *weight = a.weight + row / 16 * 16 * a.n_cols + row % 16;
    for (int64_t k = 0; k < a.n_cols; k++) {
      float &out = a.out[t * a.n_cols + k];
      const float value = float(a.scale) * weight[k * 16];
      out = a.accumulate ? out + value : value;
    }
  }
}
