// residual: x[t] += scale * N(y[t]), N being nothing, an RMS norm or a layer norm
// (norm/cpp/rows.h); then x[t] *= x_scale, if there is one. One token per item.
#include "norm/cpp/rows.h"

namespace {

struct ResidualArgs {
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

// Row t of x += scale * value(i, n): columns i .. i + 15 of N(y), of which n are left.  x times 1
// is x to the bit.
template <class Value>
PYRO_INLINE void add_row(const ResidualArgs &a, int64_t t, Value value) {
  float *x = a.x + t * a.d_model;
  const f32x16 scale = set1(float(a.scale)), x_scale = set1(a.x_scale ? *a.x_scale : 1.0f);
  for (int64_t i = 0; i < a.d_model; i += kLanes) {
    const int64_t n = a.d_model - i;
    store_n(x + i, (load_n(x + i, n) + scale * value(i, n)) * x_scale, n);
  }
}

template <int64_t kKind>
void add_normed(const ResidualArgs &a, Range mine) {
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const float *y = a.y + t * a.d_model;
    const RowNorm row = norm_of_row<kKind>(y, a.d_model, float(a.eps));
    add_row(a, t,
            [&](int64_t i, int64_t n) { return normed<kKind>(row, y, a.weight, a.bias, i, n); });
  }
}

void add_as_it_is(const ResidualArgs &a, Range mine) {
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const float *y = a.y + t * a.d_model;
    add_row(a, t, [&](int64_t i, int64_t n) { return load_n(y + i, n); });
  }
}

void residual(const void *args, int part, int n_parts) {
  const ResidualArgs &a = *static_cast<const ResidualArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  if (a.kind == kLayerNorm)
    add_normed<kLayerNorm>(a, mine);
  else if (a.kind == kRmsNorm)
    add_normed<kRmsNorm>(a, mine);
  else
    add_as_it_is(a, mine);
}

PYRO_KERNEL("residual.f32", residual);

}  // namespace
