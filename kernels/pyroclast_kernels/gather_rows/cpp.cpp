// gather_rows: out[t] = x[rows[t]], float32; one row per item.
#include "native/abi.h"
#include "native/simd.h"

namespace {

struct GatherRowsArgs {
  const int64_t *n_tokens;
  const int32_t *rows;
  const float *x;
  float *out;
  int64_t n_cols;
};

void gather_rows(const void *args, int part, int n_parts) {
  const GatherRowsArgs &a = *static_cast<const GatherRowsArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    const float *x = a.x + a.rows[t] * a.n_cols;
    for (int64_t i = 0; i < a.n_cols; i += kLanes)
      store_n(a.out + t * a.n_cols + i, load_n(x + i, a.n_cols - i), a.n_cols - i);
  }
}

PYRO_KERNEL("gather_rows.f32", gather_rows);

}  // namespace
