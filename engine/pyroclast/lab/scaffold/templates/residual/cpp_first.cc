// $contract
// OP = "residual"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  float *x;
  const float *y;
  const float *weight;
  const float *bias;
  const float *x_scale;
  int64_t d_model;
  double eps;
  int64_t kind;
  double scale;
};

}  // namespace

extern "C" void residual_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  const float scale = float(a.scale), x_scale = a.x_scale ? *a.x_scale : 1.0f;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    float *x = a.x + t * a.d_model;
    const float *y = a.y + t * a.d_model;
    double mean = 0, squares = 0;  // the mean of a layer norm; an RMS norm subtracts none
    for (int64_t i = 0; a.kind == 1 && i < a.d_model; i++) mean += double(y[i]) / double(a.d_model);
    for (int64_t i = 0; i < a.d_model; i++) {
      const float centred = float(y[i] - mean);
      squares += double(centred * centred);
    }
    const float inverse = float(1.0 / std::sqrt(squares / double(a.d_model) + a.eps));
    for (int64_t i = 0; i < a.d_model; i++) {
      float value = y[i];
      if (a.kind >= 0) {
        value = float(y[i] - mean) * inverse * a.weight[i];
        if (a.bias) value += a.bias[i];
      }
      x[i] = (x[i] + scale * value) * x_scale;
    }
  }
}
