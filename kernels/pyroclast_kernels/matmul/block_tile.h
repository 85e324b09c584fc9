// The register tile of products with block-quantized weights: M tokens by G groups of 16 rows.
//
// Idea: 16 rows sit in the 16 lanes and an activation is broadcast to all of them, so one token and
// many tokens share one loop and one order of additions: blocks of 32 columns from left to right,
// an exact integer sum inside a block, one fused multiply-add of the block's scale per row.
#pragma once

#include <algorithm>

#include "superblocks.h"

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

// In codes that run on for this many bytes the CPU's own prefetcher keeps up once it has begun, and
// does not wait for lines as a core does: only their beginning is fetched (q8_0 8192 x 2048, one
// token, one thread, cold: 23.5 to 26.3 GB/s; shorter runs lose, 576 columns 21 to 18).
constexpr int64_t kLongRun = 32 * 1024, kBeginning = 4 * 1024;

PYRO_INLINE void prefetch_l2(const uint8_t *p) { __builtin_prefetch(p, 0, 2); }

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

// One tile of block-quantized weights.  While it is computed, the weights `ahead` bytes on are
// fetched into L2: a group is a few kilobytes in two streams, too short for the CPU's own
// prefetcher to get up to speed (one token of 3072 x 576, cold, two threads: q4_1 30 to 35, q8_0 34
// to 45 GB/s).  The last tile has nothing ahead: 0 asks for its own lines again, which costs next
// to nothing.
template <class F, int M, int G>
PYRO_INLINE void block_tile(const uint8_t *group, int64_t group_size, int64_t n_cols,
                            const Q8Block *x, int64_t ahead, f32x16 (&acc)[M][G]) {
  const int64_t n_blocks = n_cols / kBlock;
  const int64_t n_fetched =
      n_blocks * F::kQuantBytes < kLongRun ? n_blocks : kBeginning / F::kQuantBytes;
  const uint8_t *quants = group + F::quants_offset(n_cols);
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) acc[m][g] = set1(0.0f);
  for (int64_t b = 0; b < n_blocks; b++, x++, quants += F::kQuantBytes) {
    const uint8_t *header = group + b / F::kHeaderBlocks * F::kHeaderBytes;
    if (b < n_fetched) {
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) {
        prefetch_l2(header + g * group_size + ahead);
#pragma GCC unroll 8
        for (int line = 0; line < F::kQuantBytes; line += 64)
          prefetch_l2(quants + g * group_size + ahead + line);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRegs; r++)
#pragma GCC unroll 2
      for (int half = 0; half < F::kHalves; half++) {
        NativeI sum[M][G];
#pragma GCC unroll 6
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
          for (int g = 0; g < G; g++) sum[m][g] = NativeI{} + F::start(x[m * n_blocks], half);
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
              a = fma_native(minimum, x_sum - NativeF{}, a);  // 0 + x is an addition, x - 0 is x
            }
          }
        }
      }
  }
}

// Tiles of nearly equal size that cover n tokens, so that there is no thin last one: calls
// f(first token, number of tokens).
template <class Function>
PYRO_INLINE void for_each_tile(int64_t n_tokens, Function f) {
  const int64_t n_tiles = (n_tokens + kMaxTokens - 1) / kMaxTokens;
  for (int64_t i = 0, token = 0; i < n_tiles; i++) {
    const int64_t next = n_tokens * (i + 1) / n_tiles;
    f(token, int(next - token));
    token = next;
  }
}
