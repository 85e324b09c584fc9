// Products of block-quantized packed weights with a ragged batch of tokens: out[t, row] = sum over
// k of weight[row, k] * x[t, k], float32 out.  See reference.py for the contract, packed.h for the
// layout; plain values (f32, f16, bf16) are in cpp_values.cpp.
//
// The tile and its order of additions are in block_tile.h.
// Loop order: panel of row groups that fits L2 -> tile of tokens -> group -> block.
// Tails: the last group of rows is padded in memory and stored lane by lane; a tile may hold any
// number of tokens from 1 to kMaxTokens through the same template.
#include "block_tile.h"
#include "product.h"

namespace {

template <class F, int M, int G>
void tile(const MatmulArgs &a, int64_t first_group, int64_t token, bool is_last) {
  const int64_t size = group_bytes<F>(a.n_cols);
  const uint8_t *group = a.weight + first_group * size;
  f32x16 acc[M][G];
  block_tile<F, M, G>(group, size, a.n_cols, (const Q8Block *)a.x + token * (a.n_cols / kBlock),
                      is_last ? 0 : G * size, acc);
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) store_sum(a, first_group + g, token + m, acc[m][g]);
}

// M tokens by all groups of a panel.
template <class F, int M>
void panel(const MatmulArgs &a, Range groups, int64_t token) {
  constexpr int G = groups_for(M);
  int64_t g = groups.begin;
  for (; g + G <= groups.end; g += G) tile<F, M, G>(a, g, token, g + 2 * G > groups.end);
  for (; g < groups.end; g++) tile<F, M, 1>(a, g, token, g + 1 == groups.end);
}

template <class F, int M = kMaxTokens>
void panel_of(int n_tokens, const MatmulArgs &a, Range groups, int64_t token) {
  if constexpr (M > 1)
    if (n_tokens < M) return panel_of<F, M - 1>(n_tokens, a, groups, token);
  panel<F, M>(a, groups, token);
}

template <class F>
void matmul(const void *args, int part, int n_parts) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  const int64_t n_tokens = *a.n_tokens;
  const Range mine = split((a.n_rows + kLanes - 1) / kLanes, part, n_parts);
  int64_t panel_groups = std::max<int64_t>(1, kPanelBytes / group_bytes<F>(a.n_cols));
  // One tile of tokens reads everything once: panels would only stop the fetching ahead.
  if (n_tokens <= kMaxTokens) panel_groups = mine.end - mine.begin;
  for (int64_t g = mine.begin; g < mine.end; g += panel_groups) {
    const Range groups{g, std::min(g + panel_groups, mine.end)};
    for_each_tile(n_tokens, [&](int64_t token, int n) { panel_of<F>(n, a, groups, token); });
  }
}

PYRO_KERNEL("matmul.q8_0", matmul<Q8_0>);
PYRO_KERNEL("matmul.q4_0", matmul<Q4_0>);
PYRO_KERNEL("matmul.q4_1", matmul<Q4_1>);
PYRO_KERNEL("matmul.q5_0", matmul<Q5_0>);
PYRO_KERNEL("matmul.q5_1", matmul<Q5_1>);
PYRO_KERNEL("matmul.q2_k", matmul<Q2_K>);
PYRO_KERNEL("matmul.q3_k", matmul<Q3_K>);
PYRO_KERNEL("matmul.q4_k", matmul<Q4_K>);
PYRO_KERNEL("matmul.q5_k", matmul<Q5_K>);
PYRO_KERNEL("matmul.q6_k", matmul<Q6_K>);

}  // namespace
