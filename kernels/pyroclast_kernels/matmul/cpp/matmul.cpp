// Products of block-quantized packed weights with a ragged batch of tokens: out[t, row] = sum over
// k of weight[row, k] * x[t, k], float32 out.  See reference.py for the contract, packed.h for the
// layout; plain values (f32, f16, bf16) are in values.cpp.
//
// The tile and its order of additions are in block_tile.h.
// Loop order: panel of row groups -> tile of tokens -> group -> block.
// Tails: the last group of rows is padded in memory and stored lane by lane; a tile may hold any
// number of tokens from 1 to kMaxTokens through the same template.
#include "block_tile.h"
#include "product.h"
#include "tables.h"

namespace {

template <class F, int M, int G>
void tile(const MatmulArgs &a, int64_t first_group, int64_t token, Fetch fetch) {
  const int64_t size = group_bytes<F>(a.n_cols);
  const uint8_t *group = a.weight + first_group * size;
  f32x16 acc[M][G];
  block_tile<F, M, G>(group, size, a.n_cols, (const Q8Block *)a.x + token * (a.n_cols / kBlock),
                      fetch, acc);
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) store_sum(a, first_group + g, token + m, acc[m][g]);
}

// M tokens by all groups of a panel.
template <class F, int M>
void panel(const MatmulArgs &a, Range groups, int64_t token, Fetch fetch) {
  constexpr int G = groups_for(M);
  int64_t g = groups.begin;
  if (*a.n_tokens > kStreamTokens)
    for (; g + G <= groups.end; g += G) tile<F, M, G>(a, g, token, fetch);
  for (; g < groups.end; g++) tile<F, M, 1>(a, g, token, fetch);
}

template <class F, int M = kMaxTokens>
void panel_of(int n_tokens, const MatmulArgs &a, Range groups, int64_t token, Fetch fetch) {
  if constexpr (M > 1)
    if (n_tokens < M) return panel_of<F, M - 1>(n_tokens, a, groups, token, fetch);
  panel<F, M>(a, groups, token, fetch);
}

template <class F>
void matmul(const void *args, int part, int n_parts) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  const Range mine = split((a.n_rows + kLanes - 1) / kLanes, part, n_parts);
  for_each_panel(mine, 1, group_bytes<F>(a.n_cols), *a.n_tokens, a.n_cols,
                 [&](Range groups, int64_t token, int n, Fetch fetch) {
                   panel_of<F>(n, a, groups, token, fetch);
                 });
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
PYRO_KERNEL("matmul.iq4_nl", matmul<IQ4_NL>);
PYRO_KERNEL("matmul.iq4_xs", matmul<IQ4_XS>);
PYRO_KERNEL("matmul.iq3_s", matmul<IQ3_S>);
PYRO_KERNEL("matmul.mxfp4", matmul<MXFP4>);
PYRO_KERNEL("matmul.t4_k", matmul<T4_K>);

}  // namespace
