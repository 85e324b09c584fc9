// sparse_gate: gate[t] = relu(gate[t] - mean - deviations * standard deviation), in place.  Mean
// and deviation are those of a layer norm (norm/cpp/rows.h).  One token per item.
#include "activation/cpp/gate.h"
#include "norm/cpp/rows.h"

namespace {

struct SparseGateArgs {
  const int64_t *n_tokens;
  float *gate_up;
  int64_t d_ff;
  int64_t row_stride;
  double deviations;
};

void sparse_gate(const void *args, int part, int n_parts) {
  const SparseGateArgs &a = *static_cast<const SparseGateArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  for (int64_t t = mine.begin; t < mine.end; t++) {
    float *gate = a.gate_up + t * a.row_stride;
    const RowNorm row = norm_of_row<kLayerNorm>(gate, a.d_ff, 0.0f);
    // row.scale is 1 over the deviation: of a row of equal values infinite, which gives 0.
    const f32x16 cut = set1(float(a.deviations)) / row.scale;
    for (int64_t i = 0; i < a.d_ff; i += kLanes) {
      const int64_t n = a.d_ff - i;
      store_n(gate + i, relu(centred<kLayerNorm>(row, load_n(gate + i, n)) - cut), n);
    }
  }
}

PYRO_KERNEL("sparse_gate.f32", sparse_gate);

}  // namespace
