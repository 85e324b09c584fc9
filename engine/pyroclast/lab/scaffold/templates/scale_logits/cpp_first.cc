// $contract
// OP = "scale_logits"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  float *logits;
  int64_t n_cols;
  double scale;
  double softcap;
};

}  // namespace

extern "C" void scale_logits_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    for (int64_t i = 0; i < a.n_cols; i++) {
      float &out = a.logits[t * a.n_cols + i];
      double y = double(float(a.scale)) * out;
      if (a.softcap > 0) y = float(a.softcap) * std::tanh(y / float(a.softcap));
      out = float(y);
    }
  }
}
