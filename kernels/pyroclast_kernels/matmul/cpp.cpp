// Products of packed weights with a ragged batch of tokens: out[t, row] = sum over k of
// weight[row, k] * x[t, k], float32 out.  See reference.py for the contract, packed.h for the
// layout.
//
// Idea: 16 rows sit in the 16 lanes and an activation is broadcast to all of them, so one token and
// many tokens share one loop and one order of additions: blocks of 32 columns from left to right,
// an exact integer sum inside a block, one fused multiply-add of the block's scale per row.
// Loop order: panel of row groups that fits L2 -> tile of tokens -> group -> block.
// Tails: the last group of rows is padded in memory and stored lane by lane; a tile may hold any
// number of tokens from 1 to kMaxTokens through the same template.
#include <algorithm>

#include "superblocks.h"

namespace {

struct MatmulArgs {
  const int64_t *n_tokens;
  const void *x;
  const uint8_t *weight;
  const float *bias;
  float *out;
  int64_t n_rows;
  int64_t n_cols;
  int64_t out_stride;
  int64_t accumulate;
};

// A panel is read once from memory and then once from L2 for each further tile of tokens: half of
// the smallest L2 in the field (1 MiB on Zen 4) leaves room for the activations.
constexpr int64_t kPanelBytes = 512 * 1024;

// Tiles of M tokens by G groups of rows.  The loads of a step over 4 columns are M + G, the
// products M * G, and both sums of a block (integer, float32) stay in registers: M * G <= 12 of 32,
// which also is enough to hide the latency of a chain of products.  Registers half as wide: M * G
// <= 4 of 16.
constexpr int kMaxTokens = kWidth == 16 ? 6 : 4;
constexpr int groups_for(int n_tokens) {
  constexpr int kCells = kWidth == 16 ? 12 : 4;
  return n_tokens >= kCells ? 1 : kCells / n_tokens > 4 ? 4 : kCells / n_tokens;
}

// sum + the products of quad k: part r of 16 rows, 4 columns.
template <class F, int M, int G>
PYRO_INLINE void add_quad(const uint8_t *quants, int64_t group_size, int k, int r, const Q8Block *x,
                          int64_t n_blocks, NativeI (&sum)[M][G]) {
  NativeI w[G];
#pragma GCC unroll 4
  for (int g = 0; g < G; g++) w[g] = F::load_quad(quants + g * group_size, k, r);
#pragma GCC unroll 6
  for (int m = 0; m < M; m++) {
    int32_t values;
    std::memcpy(&values, x[m * n_blocks].values + 4 * k, 4);
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) sum[m][g] = F::dot(sum[m][g], w[g], values);
  }
}

// One tile of block-quantized weights.
template <class F, int M, int G>
PYRO_INLINE void block_tile(const uint8_t *group, int64_t group_size, int64_t n_cols,
                            const Q8Block *x, f32x16 (&acc)[M][G]) {
  const int64_t n_blocks = n_cols / kBlock;
  const uint8_t *quants = group + F::quants_offset(n_cols);
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) acc[m][g] = set1(0.0f);
  for (int64_t b = 0; b < n_blocks; b++, x++, quants += F::kQuantBytes) {
    const uint8_t *header = group + b / F::kHeaderBlocks * F::kHeaderBytes;
#pragma GCC unroll 4
    for (int r = 0; r < kRegs; r++)
#pragma GCC unroll 2
      for (int half = 0; half < F::kHalves; half++) {
        NativeI sum[M][G];
#pragma GCC unroll 6
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
          for (int g = 0; g < G; g++) sum[m][g] = NativeI{} + F::start(x[m * n_blocks]);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
          add_quad<F>(quants, group_size, k + 4 * half, r, x, n_blocks, sum);
          if constexpr (F::kHalves == 1)
            add_quad<F>(quants, group_size, k + 4, r, x, n_blocks, sum);
        }
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) {
          NativeF scale, minimum;
          F::load_scales(header + g * group_size, int(b % F::kHeaderBlocks), half, r, scale,
                         minimum);
#pragma GCC unroll 6
          for (int m = 0; m < M; m++) {
            const Q8Block &xb = x[m * n_blocks];
            const NativeF whole = __builtin_convertvector(sum[m][g], NativeF);
            NativeF &a = acc[m][g].v[r];
            a = fma_native(whole, scale * xb.scale, a);
            if constexpr (F::kHasMin) {
              const float x_sum = F::kHalves == 1 ? xb.sum_scaled : xb.half_scaled[half];
              a = fma_native(minimum, NativeF{} + x_sum, a);
            }
          }
        }
      }
  }
}

// One tile of plain values.
template <class F, int M, int G>
PYRO_INLINE void value_tile(const uint8_t *group, int64_t group_size, int64_t n_cols,
                            const float *x, f32x16 (&acc)[M][G]) {
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) acc[m][g] = set1(0.0f);
  for (int64_t k = 0; k < n_cols; k++) {
    f32x16 w[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
      w[g] = F::load(group + g * group_size + k * kLanes * F::kValueBytes);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) {
      const f32x16 value = set1(x[m * n_cols + k]);
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) acc[m][g] = fma(w[g], value, acc[m][g]);
    }
  }
}

template <class F, int M, int G>
void tile(const MatmulArgs &a, int64_t first_group, int64_t token) {
  const int64_t size = group_bytes<F>(a.n_cols);
  const uint8_t *group = a.weight + first_group * size;
  f32x16 acc[M][G];
  if constexpr (kIsBlock<F>)
    block_tile<F, M, G>(group, size, a.n_cols, (const Q8Block *)a.x + token * (a.n_cols / kBlock),
                        acc);
  else
    value_tile<F, M, G>(group, size, a.n_cols, (const float *)a.x + token * a.n_cols, acc);
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) {
      const int64_t row = (first_group + g) * kLanes, n = a.n_rows - row;
      float *out = a.out + (token + m) * a.out_stride + row;
      f32x16 y = acc[m][g];
      if (a.bias) y = y + load_n(a.bias + row, n);
      if (a.accumulate) y = load_n(out, n) + y;
      store_n(out, y, n);
    }
}

// M tokens by all groups of a panel.
template <class F, int M>
void panel(const MatmulArgs &a, Range groups, int64_t token) {
  constexpr int G = groups_for(M);
  int64_t g = groups.begin;
  for (; g + G <= groups.end; g += G) tile<F, M, G>(a, g, token);
  for (; g < groups.end; g++) tile<F, M, 1>(a, g, token);
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
  const int64_t panel_groups = std::max<int64_t>(1, kPanelBytes / group_bytes<F>(a.n_cols));
  const int64_t n_tiles = (n_tokens + kMaxTokens - 1) / kMaxTokens;
  for (int64_t g = mine.begin; g < mine.end; g += panel_groups) {
    const Range groups{g, std::min(g + panel_groups, mine.end)};
    for (int64_t i = 0, token = 0; i < n_tiles; i++) {
      const int64_t next =
          n_tokens * (i + 1) / n_tiles;  // tiles of nearly equal size: no thin tail
      panel_of<F>(int(next - token), a, groups, token);
      token = next;
    }
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
PYRO_KERNEL("matmul.f32", matmul<F32>);
PYRO_KERNEL("matmul.f16", matmul<F16>);
PYRO_KERNEL("matmul.bf16", matmul<BF16>);

}  // namespace
