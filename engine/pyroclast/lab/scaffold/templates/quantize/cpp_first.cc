// $contract
// OP = "quantize"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

#include "../quantize_block.h"

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  const float *x;
  Q8Block *out_q8;
  int64_t n_cols;
};

}  // namespace

extern "C" void quantize_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    for (int64_t i = 0; i < a.n_cols; i += 32)
      quantize_block(a.x + t * a.n_cols + i, a.out_q8[(t * a.n_cols + i) / 32]);
  }
}
