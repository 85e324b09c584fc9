// combine: out[t] = scale * sum over slots of gates[t, slot] * y[t * n_active + slot] (+ out[t]).
// See reference.py for the contract.  Items are runs of 512 columns of a token; the sum over slots
// is one chain from the first slot to the last.
#include <algorithm>

#include "native/abi.h"
#include "native/simd.h"

namespace {

constexpr int64_t kRun = 512;

struct CombineArgs {
  const int64_t *n_tokens;
  const float *y;
  const float *gates;
  float *out;
  int64_t n_active;
  int64_t n_cols;
  double scale;
  int64_t accumulate;
};

void columns(const CombineArgs &a, int64_t token, Range columns) {
  const float *y = a.y + token * a.n_active * a.n_cols, *gates = a.gates + token * a.n_active;
  const f32x16 scale = set1(float(a.scale));
  float *out = a.out + token * a.n_cols;
  for (int64_t i = columns.begin; i < columns.end; i += kLanes) {
    const int64_t n = columns.end - i;
    f32x16 sum = set1(0.0f);
    for (int64_t slot = 0; slot < a.n_active; slot++)
      sum = fma(set1(gates[slot]), load_n(y + slot * a.n_cols + i, n), sum);
    sum = sum * scale;
    store_n(out + i, a.accumulate ? load_n(out + i, n) + sum : sum, n);
  }
}

void combine(const void *args, int part, int n_parts) {
  const CombineArgs &a = *static_cast<const CombineArgs *>(args);
  const int64_t runs = (a.n_cols + kRun - 1) / kRun;
  const Range mine = split(*a.n_tokens * runs, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t column = item % runs * kRun;
    columns(a, item / runs, {column, std::min(column + kRun, a.n_cols)});
  }
}

PYRO_KERNEL("combine.f32", combine);

}  // namespace
