// $contract
// OP = "rope_table"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  const int32_t *positions;
  const float *inv_freq;
  float *out;
  int64_t half_dim;
  double amplitude;
};

}  // namespace

extern "C" void rope_table_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    float *cosine = a.out + t * 2 * a.half_dim, *sine = cosine + a.half_dim;
    for (int64_t i = 0; i < a.half_dim; i++) {
      const double angle = double(float(a.positions[t]) * a.inv_freq[i]);
      cosine[i] = float(a.amplitude * std::cos(angle));
      sine[i] = float(a.amplitude * std::sin(angle));
    }
  }
}
