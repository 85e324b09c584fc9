// scale_logits: logits times a factor, then softcap * tanh(logits / softcap), in place.
// Items are blocks of 1024 columns of a row, so that one row's work can be shared by threads.
#include <algorithm>

#include "native/abi.h"
#include "native/tanh.h"

namespace {

constexpr int64_t kBlock = 1024;

struct ScaleLogitsArgs {
  const int64_t *n_tokens;
  float *logits;
  int64_t n_cols;
  double scale;
  double softcap;
};

void scale_logits(const void *args, int part, int n_parts) {
  const ScaleLogitsArgs &a = *static_cast<const ScaleLogitsArgs *>(args);
  const int64_t blocks = (a.n_cols + kBlock - 1) / kBlock;
  const Range mine = split(*a.n_tokens * blocks, part, n_parts);
  const f32x16 scale = set1(float(a.scale)), cap = set1(float(a.softcap));
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t column = item % blocks * kBlock, n = std::min(kBlock, a.n_cols - column);
    float *row = a.logits + item / blocks * a.n_cols + column;
    for (int64_t i = 0; i < n; i += kLanes) {
      f32x16 y = load_n(row + i, n - i) * scale;
      if (a.softcap > 0) y = cap * tanh(y / cap);
      store_n(row + i, y, n - i);
    }
  }
}

PYRO_KERNEL("scale_logits.f32", scale_logits);

}  // namespace
