// $contract
// OP = "softmax"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const float *logits;
  const int64_t *n_rows;
  const double *temperatures;
  const float *bias;
  const uint32_t *allowed;
  float *out;
  int64_t n_cols;
  int64_t logits_stride;
  int64_t out_stride;
  int64_t log;
};

}  // namespace

extern "C" void softmax_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_rows;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t r = n * part / n_parts; r < n * (part + 1) / n_parts; r++) {
    const float *logits = a.logits + r * a.logits_stride;
    float *out = a.out + r * a.out_stride;
    const double temperature = a.temperatures ? a.temperatures[r] : 1.0;
    const uint32_t *allowed = a.allowed ? a.allowed + r * ((a.n_cols + 31) / 32) : nullptr;
    const float infinity = std::numeric_limits<float>::infinity();
    float best = -infinity;
    int64_t at = 0;
    bool is_bad = false;
    for (int64_t i = 0; i < a.n_cols; i++) {  // out may be logits itself
      float z = logits[i];
      if (a.bias) z += a.bias[i];
      if (allowed && !(allowed[i / 32] >> (i % 32) & 1)) z = -infinity;
      out[i] = z;
      is_bad |= std::isnan(z);
      if (z > best) best = z, at = i;
    }
    if (is_bad || std::isinf(best)) {  // a NaN, a +inf, or nothing finite
      for (int64_t i = 0; i < a.n_cols; i++) out[i] = std::numeric_limits<float>::quiet_NaN();
    } else if (temperature < 1e-5) {
      for (int64_t i = 0; i < a.n_cols; i++)
        out[i] = a.log ? (i == at ? 0.0f : -infinity) : (i == at ? 1.0f : 0.0f);
    } else {
      double total = 0;
      for (int64_t i = 0; i < a.n_cols; i++)
        total += std::exp((double(out[i]) - best) / temperature);
      for (int64_t i = 0; i < a.n_cols; i++) {
        const double x = (double(out[i]) - best) / temperature;
        out[i] = float(a.log ? x - std::log(total) : std::exp(x) / total);
      }
    }
  }
}
