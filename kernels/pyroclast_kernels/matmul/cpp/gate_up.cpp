// gate_up: the first half of a gated feed-forward in one pass, out = f(gate) * up where gate and up
// are the products of the upper and the lower half of a block-quantized weight with a token.
// Same bits as matmul and then glu.  It saves writing and reading both products, and a barrier.
// See reference.py for the contract, block_tile.h for the tile.
//
// Loop order: panel of 32-column blocks of the result whose weights fit L2 -> tile of tokens ->
// block.  A tile leaves its sums in L1, where the epilogue finds them.
#include "activation/cpp/gate.h"
#include "activation/cpp/quantize.h"
#include "block_tile.h"
#include "tables.h"

namespace {

struct GateUpArgs {
  const int64_t *n_tokens;
  const Q8Block *x;
  const uint8_t *weight;
  float *out;
  Q8Block *out_q8;
  int64_t d_ff;
  int64_t n_cols;
  int64_t activation;
};

// The sums of M tokens by the gate and the up rows of one group: two groups far apart at once
// where the registers suffice.
template <class F, int M>
PYRO_INLINE void gate_and_up(const GateUpArgs &a, int64_t group, const Q8Block *x, Fetch fetch,
                             f32x16 (&acc)[M][2]) {
  const int64_t size = group_bytes<F>(a.n_cols), distance = a.d_ff / kLanes * size;
  const uint8_t *gate = a.weight + group * size;
  if constexpr (groups_for(M) >= 2)
    if (*a.n_tokens > kStreamTokens)
      return block_tile<F, M, 2>(gate, distance, a.n_cols, x, fetch, acc);
#pragma GCC unroll 2
  for (int g = 0; g < 2; g++) {
    f32x16 half[M][1];
    block_tile<F, M, 1>(gate + g * distance, distance, a.n_cols, x, fetch, half);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) acc[m][g] = half[m][0];
  }
}

// M tokens by the 32 columns of a block of the result (16 where d_ff ends).
template <class F, int M>
void result_block(const GateUpArgs &a, int64_t block, int64_t token, Fetch fetch) {
  const Q8Block *x = a.x + token * (a.n_cols / kBlock);
  const int64_t n = std::min<int64_t>(kBlock, a.d_ff - block * kBlock);
  alignas(64) float y[M][kBlock];
  for (int64_t i = 0; i < n; i += kLanes) {
    f32x16 acc[M][2];
    gate_and_up<F, M>(a, (block * kBlock + i) / kLanes, x, fetch, acc);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) store(y[m] + i, gated(a.activation, acc[m][0], acc[m][1]));
  }
  for (int m = 0; m < M; m++) {
    const int64_t t = token + m;
    if (a.out) std::memcpy(a.out + t * a.d_ff + block * kBlock, y[m], size_t(n) * sizeof(float));
    if (a.out_q8) quantize_block(y[m], a.out_q8[t * (a.d_ff / kBlock) + block]);
  }
}

template <class F, int M = kMaxTokens>
void panel(int n_tokens, const GateUpArgs &a, Range blocks, int64_t token, Fetch fetch) {
  if constexpr (M > 1)
    if (n_tokens < M) return panel<F, M - 1>(n_tokens, a, blocks, token, fetch);
  for (int64_t block = blocks.begin; block < blocks.end; block++)
    result_block<F, M>(a, block, token, fetch);
}

template <class F>
void gate_up(const void *args, int part, int n_parts) {
  const GateUpArgs &a = *static_cast<const GateUpArgs *>(args);
  const Range mine = split((a.d_ff + kBlock - 1) / kBlock, part, n_parts);
  for_each_panel(mine, kBlock / kLanes, group_bytes<F>(a.n_cols), *a.n_tokens, a.n_cols,
                 [&](Range blocks, int64_t token, int n, Fetch fetch) {
                   panel<F>(n, a, blocks, token, fetch);
                 });
}

PYRO_KERNEL("gate_up.q8_0", gate_up<Q8_0>);
PYRO_KERNEL("gate_up.q4_0", gate_up<Q4_0>);
PYRO_KERNEL("gate_up.q4_1", gate_up<Q4_1>);
PYRO_KERNEL("gate_up.q5_0", gate_up<Q5_0>);
PYRO_KERNEL("gate_up.q5_1", gate_up<Q5_1>);
PYRO_KERNEL("gate_up.q2_k", gate_up<Q2_K>);
PYRO_KERNEL("gate_up.q3_k", gate_up<Q3_K>);
PYRO_KERNEL("gate_up.q4_k", gate_up<Q4_K>);
PYRO_KERNEL("gate_up.q5_k", gate_up<Q5_K>);
PYRO_KERNEL("gate_up.q6_k", gate_up<Q6_K>);
PYRO_KERNEL("gate_up.iq4_nl", gate_up<IQ4_NL>);
PYRO_KERNEL("gate_up.iq4_xs", gate_up<IQ4_XS>);
PYRO_KERNEL("gate_up.iq3_s", gate_up<IQ3_S>);
PYRO_KERNEL("gate_up.mxfp4", gate_up<MXFP4>);
PYRO_KERNEL("gate_up.t4_k", gate_up<T4_K>);

}  // namespace
