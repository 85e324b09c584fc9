// $contract
// OP = "qk_norm"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  float *qkv;
  const float *q_weight;
  const float *k_weight;
  const float *v_weight;
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  double eps;
  int64_t whole;
};

// n_columns of one token, `width` of them at a time.
void norm_in_place(float *x, const float *weight, int64_t n_columns, int64_t width, double eps) {
  for (float *row = x; row < x + n_columns; row += width) {
    double squares = 0;
    for (int64_t i = 0; i < width; i++) squares += double(row[i] * row[i]);
    const float scale = float(1.0 / std::sqrt(squares / double(width) + eps));
    for (int64_t i = 0; i < width; i++) row[i] = row[i] * scale * weight[i];
  }
}

}  // namespace

extern "C" void qk_norm_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  const int64_t q_dim = a.n_heads * a.head_dim, k_dim = a.n_kv_heads * a.head_dim;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    float *q = a.qkv + t * (q_dim + 2 * k_dim);
    norm_in_place(q, a.q_weight, q_dim, a.whole ? q_dim : a.head_dim, a.eps);
    norm_in_place(q + q_dim, a.k_weight, k_dim, a.whole ? k_dim : a.head_dim, a.eps);
    if (a.v_weight) norm_in_place(q + q_dim + k_dim, a.v_weight, k_dim, a.head_dim, a.eps);
  }
}
