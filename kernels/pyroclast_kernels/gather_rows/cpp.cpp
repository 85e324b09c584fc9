// gather_rows: out[i] = x[rows[i]], a row per item.
#include <cstring>

#include "native/abi.h"

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
  for (int64_t i = mine.begin; i < mine.end; i++)
    std::memcpy(a.out + i * a.n_cols, a.x + a.rows[i] * a.n_cols, size_t(a.n_cols) * sizeof(float));
}

PYRO_KERNEL("gather_rows.f32", gather_rows);

}  // namespace
