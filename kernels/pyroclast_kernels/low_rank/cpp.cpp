// low_rank: out[t] += scales[a] (x[t] A^T) B^T for the tokens t that have an adapter a (LoRA).
// See reference.py for the contract.
//
// Items are 128 rows of a token's result.  A part first computes x A^T of a token, rank by rank in
// 16 lanes, then the rows of its items: each part that shares a token does the former again, which
// costs less than a barrier between the two.  Ranks go in runs of 64, one added to out after the
// other, so that there is no limit to a rank.
#include <algorithm>

#include "native/abi.h"
#include "native/simd.h"

namespace {

constexpr int64_t kRows = 128;
constexpr int64_t kRanks = 64;

struct LowRankArgs {
  const int64_t *n_tokens;
  const int64_t *n_adapted;
  const int32_t *adapter_of_token;
  const float *x;
  const float *lora_a;
  const float *lora_b;
  const int32_t *ranks;
  const float *scales;
  float *out;
  int64_t n_rows;
  int64_t n_cols;
  int64_t max_rank;
  int64_t out_stride;
};

// out[r] = scale * sum over k of x[k] * a[r, k], for R rows of a at once: x is loaded once, and R
// sums hide the latency of an addition.
template <int R>
PYRO_INLINE void project(const float *x, const float *a, int64_t n_cols, float scale, float *out) {
  f32x16 sum[R];
  for (int r = 0; r < R; r++) sum[r] = set1(0.0f);
  for (int64_t k = 0; k < n_cols; k += kLanes) {
    const f32x16 v = load_n(x + k, n_cols - k);
    for (int r = 0; r < R; r++) sum[r] = fma(v, load_n(a + r * n_cols + k, n_cols - k), sum[r]);
  }
  for (int r = 0; r < R; r++) out[r] = scale * reduce_add(sum[r]);
}

void add_rows(const LowRankArgs &a, int64_t token, int64_t adapter, Range rows) {
  const int64_t rank = a.ranks[adapter];
  const float *x = a.x + token * a.n_cols, *lora_a = a.lora_a + adapter * a.max_rank * a.n_cols;
  const float *lora_b = a.lora_b + adapter * a.n_rows * a.max_rank;
  float *out = a.out + token * a.out_stride;
  for (int64_t first = 0; first < rank; first += kRanks) {
    const int64_t n = std::min(kRanks, rank - first);
    alignas(64) float projected[kRanks] = {};
    const float *a_row = lora_a + first * a.n_cols;
    int64_t r = 0;
    for (; r + 4 <= n; r += 4)
      project<4>(x, a_row + r * a.n_cols, a.n_cols, a.scales[adapter], projected + r);
    for (; r < n; r++)
      project<1>(x, a_row + r * a.n_cols, a.n_cols, a.scales[adapter], projected + r);
    for (int64_t row = rows.begin; row < rows.end; row++) {
      const float *b_row = lora_b + row * a.max_rank + first;
      f32x16 sum = set1(0.0f);
      for (int64_t i = 0; i < n; i += kLanes)
        sum = fma(load_n(b_row + i, n - i), load(projected + i), sum);
      out[row] += reduce_add(sum);
    }
  }
}

void low_rank(const void *args, int part, int n_parts) {
  const LowRankArgs &a = *static_cast<const LowRankArgs *>(args);
  if (*a.n_adapted == 0) return;
  const int64_t runs = (a.n_rows + kRows - 1) / kRows;
  const Range mine = split(*a.n_tokens * runs, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end;) {
    const int64_t token = item / runs, run = item % runs;
    const int64_t end = std::min(runs, run + mine.end - item);
    const int64_t adapter = a.adapter_of_token[token];
    if (adapter >= 0) add_rows(a, token, adapter, {run * kRows, std::min(end * kRows, a.n_rows)});
    item += end - run;
  }
}

PYRO_KERNEL("low_rank.f32", low_rank);

}  // namespace
