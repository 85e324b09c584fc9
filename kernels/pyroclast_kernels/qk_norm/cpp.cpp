// qk_norm: RMS norm of the query and key heads in qkv, in place: each head by itself, or all heads
// of q, and all of k, as one row (norm/cpp/rows.h); of value heads too, if they have a weight.  One
// token per item.
#include "norm/cpp/rows.h"

namespace {

struct QkNormArgs {
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

// n_rows rows of n columns, one after the other, all with the same weight.
void norm_in_place(float *rows, int64_t n_rows, int64_t n, const float *weight, float eps) {
  for (float *x = rows; x < rows + n_rows * n; x += n) {
    const RowNorm row = norm_of_row<kRmsNorm>(x, n, eps);
    for (int64_t i = 0; i < n; i += kLanes)
      store_n(x + i, normed<kRmsNorm>(row, x, weight, nullptr, i, n - i), n - i);
  }
}

void qk_norm(const void *args, int part, int n_parts) {
  const QkNormArgs &a = *static_cast<const QkNormArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  const int64_t q_dim = a.n_heads * a.head_dim, k_dim = a.n_kv_heads * a.head_dim;
  const float eps = float(a.eps);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    float *q = a.qkv + t * (q_dim + 2 * k_dim), *k = q + q_dim;
    if (a.whole) {
      norm_in_place(q, 1, q_dim, a.q_weight, eps);
      norm_in_place(k, a.n_kv_heads > 0, k_dim, a.k_weight, eps);
    } else {
      norm_in_place(q, a.n_heads, a.head_dim, a.q_weight, eps);
      norm_in_place(k, a.n_kv_heads, a.head_dim, a.k_weight, eps);
    }
    if (a.v_weight) norm_in_place(k + k_dim, a.n_kv_heads, a.head_dim, a.v_weight, eps);
  }
}

PYRO_KERNEL("qk_norm.f32", qk_norm);

}  // namespace
