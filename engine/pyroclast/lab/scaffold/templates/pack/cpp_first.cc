// $contract
// OP = "pack"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const float *raw;
  float *weight;
  int64_t n_rows;
  int64_t n_cols;
  int64_t row_offset;
};

}  // namespace

extern "C" void pack_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = a.n_rows;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t row = n * part / n_parts; row < n * (part + 1) / n_parts; row++) {
    const int64_t at = row + a.row_offset;
    for (int64_t k = 0; k < a.n_cols; k++)
      a.weight[(at / 16 * a.n_cols + k) * 16 + at % 16] = a.raw[row * a.n_cols + k];
  }
}
