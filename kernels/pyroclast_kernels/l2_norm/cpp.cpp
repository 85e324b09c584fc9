// l2_norm: the query and key heads of each token to length 1, in place.  One token per item.
#include "native/abi.h"
#include "native/simd.h"

namespace {

struct L2NormArgs {
  const int64_t *n_tokens;
  float *qkv;
  int64_t n_heads;
  int64_t head_dim;
  int64_t row_stride;
  double eps;
  double q_scale;
};

void normalize(float *x, int64_t n, float eps, float scale) {
  f32x16 squares = set1(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const f32x16 v = load_n(x + i, n - i);
    squares = fma(v, v, squares);
  }
  const f32x16 factor = set1(scale / std::sqrt(reduce_add(squares) + eps));
  for (int64_t i = 0; i < n; i += kLanes) store_n(x + i, load_n(x + i, n - i) * factor, n - i);
}

void l2_norm(const void *args, int part, int n_parts) {
  const L2NormArgs &a = *static_cast<const L2NormArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  for (int64_t t = mine.begin; t < mine.end; t++)
    for (int64_t head = 0; head < 2 * a.n_heads; head++) {
      const float scale = head < a.n_heads ? float(a.q_scale) : 1.0f;
      normalize(a.qkv + t * a.row_stride + head * a.head_dim, a.head_dim, float(a.eps), scale);
    }
}

PYRO_KERNEL("l2_norm.f32", l2_norm);

}  // namespace
