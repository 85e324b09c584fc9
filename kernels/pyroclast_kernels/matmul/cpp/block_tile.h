// The register tile of products with block-quantized weights: M tokens by G groups of 16 rows.
//
// Idea: 16 rows sit in the 16 lanes and an activation is broadcast to all of them, so one token and
// many tokens share one loop and one order of additions: blocks of 32 columns from left to right,
// an exact integer sum inside a block, one fused multiply-add of the block's scale per row.
#pragma once

#include <algorithm>

#include "native/maker.h"
#include "superblocks.h"

// A panel is read once from memory and then once from L2 for each further tile of tokens: half of
// the smallest L2 in the field (1 MiB on Zen 4) leaves room for the activations.
constexpr int64_t kPanelBytes = 512 * 1024;

// Tiles of M tokens by G groups of rows.  The loads of a step over 4 columns are M + G, the
// products M * G, and both sums of a block (integer, float32) stay in registers: M * G <= 12 of 32,
// which also is enough to hide the latency of a chain of products.  Of 16 registers, half as wide,
// 8 sums of products fit, and those of float32 lie in memory, where a block reads them once.
constexpr int kMaxTokens = kWidth == 16 ? 6 : 4;
constexpr int kMaxCells = kWidth == 16 ? 12 : kWidth == 8 ? 8 : 4;

// Up to this many tokens, reading the weights bounds the speed.  They are read in memory order, as
// one stream, which the CPU's own prefetcher follows, or as several where it cannot run far enough
// ahead of one: with registers half as wide, of which a block takes longer, and on Intel's CPUs.
// Two threads of Zen 3 read 26 to 29 GB/s as one stream each, and 30 to 32 as two or four; of
// Sapphire Rapids 14 as one and 25 as four (q4_0), where Zen 4 was fastest with one.
constexpr int64_t kStreamTokens = 2;
constexpr int most_streams(int64_t n_tokens) {
  return kWidth == 16 ? 4 : kWidth != 8 ? 1 : n_tokens == 1 ? 4 : 2;
}
inline int streams_for(int64_t n_tokens) {
  return kWidth == 16 && !kIsIntel ? 1 : most_streams(n_tokens);
}
// How far ahead weights are fetched beside the prefetcher.  Four streams with AVX2 lose by it.
inline int64_t stream_ahead(int64_t n_tokens) {
  const int n_streams = streams_for(n_tokens);
  return n_streams == 2 ? 2048 : n_streams == 4 && kWidth == 16 ? 1024 : 0;
}
// The fewest tokens of a tile of more than that: for_each_tile makes tiles of nearly equal size.
constexpr int kFewestTokens = (kMaxTokens + 1) / 2;
static_assert(kFewestTokens <= kStreamTokens + 1, "a single tile of kStreamTokens + 1 is larger");

constexpr int kMaxGroups = kWidth == 16 ? 4 : 2;

constexpr int groups_for(int n_tokens) {
  if (n_tokens < kFewestTokens) return 1;
  return std::min(std::max(1, kMaxCells / n_tokens), kMaxGroups);
}

// Activations of this many bytes stay in L2 while all weights pass by, in panels of one tile.
constexpr int64_t kSmallBatchBytes = 128 * 1024;

// Quads of a block, or of a half with its own scale, whose products are added up at once: as many
// as 16 bits hold, where `dot_pairs` gains by it.
template <class F>
constexpr int quads_at_once() {
  int n = 1;
  while (kHasPairs && 2 * n <= 8 / F::kHalves && 2 * n * 2 * 127 * F::kLargest <= 32767) n *= 2;
  return n;
}

// Where the groups of a tile lie: group g this many bytes behind the first.
struct Spread {
  int64_t step, far;
  PYRO_INLINE int64_t at(int g) const { return g % 2 * step + g / 2 * far; }
};

// sum + the products of the quads from `first` on, in memory's order: part r of 16 rows.
template <class F, int M, int G>
PYRO_INLINE void add_quads(const uint8_t *quants, Spread spread, int half, int first, int r,
                           const Q8Block *x, int64_t n_blocks, NativeI (&sum)[M][G]) {
  constexpr int kQuads = quads_at_once<F>();
  NativeI pairs[M][G];
#pragma GCC unroll 8
  for (int i = first; i < first + kQuads; i++) {
    const int k = F::kHalves == 1 ? i / 2 + i % 2 * 4 : 4 * half + i;
    NativeI w[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) w[g] = F::load_quad(quants + spread.at(g), k, r);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) {
      const Quad values = load_quad(x[m * n_blocks].values, k);
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) {
        if constexpr (kQuads == 1) {
          sum[m][g] = F::dot(sum[m][g], w[g], values);
        } else {
          const NativeI both = dot_pairs(w[g], values);
          pairs[m][g] = i == first ? both : add_pairs(pairs[m][g], both);
        }
      }
    }
  }
  if constexpr (kQuads > 1) {
#pragma GCC unroll 6
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) sum[m][g] = widen_pairs(sum[m][g], pairs[m][g]);
  }
}

// One tile: the sums of M tokens by G groups, those of a token side by side from sums + m * stride
// on.  No part of its callers: the products of a format share its tiles, and storing compiled once
// for each of M * G sums took longer than the loop.
template <class F, int M, int G>
void block_tile(const uint8_t *group, Spread spread, int64_t n_cols, const Q8Block *x, Fetch fetch,
                float *sums, int64_t stride) {
  static_assert(M * G <= kMaxCells);
  f32x16 acc[M][G];
  const int64_t n_blocks = n_cols / kBlock;
  // One token fetches nothing, and its tile is short enough for a division to be seen.
  const int64_t fetch_step =
      fetch.n_bytes ? round_up((fetch.n_bytes + n_blocks - 1) / n_blocks, 64) : 0;
  const uint8_t *fetched = group + fetch.ahead, *fetch_end = fetched + fetch.n_bytes;
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) acc[m][g] = set1(0.0f);
  for (int64_t b = 0; b < n_blocks; b++, x++) {
    const uint8_t *header = group + F::header_offset(b), *quants = group + F::quants_offset(b);
    constexpr int kChunkHeader = F::kChunkHeaders * F::kHeaderBytes;
    // The lines of a long header are wanted one by one, between the quants of its blocks, and each
    // would end the stream that the prefetcher follows: touched at once, they are a part of it
    // (q6_k 8192 x 2048, one token, one thread, cold: 11 to 27 GB/s).
    if (kChunkHeader > 64 && b % F::kChunkBlocks == 0)
      for (int line = 0; line < kChunkHeader; line += 64)
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) __builtin_prefetch(header + spread.at(g) + line);
    for (const uint8_t *end = fetched + fetch_step; fetched < end && fetched < fetch_end;
         fetched += 64)
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) __builtin_prefetch(fetched + spread.at(g), 0, 2);
#pragma GCC unroll 4
    for (int r = 0; r < kRegs; r++)
#pragma GCC unroll 2
      for (int half = 0; half < F::kHalves; half++) {
        // Of 16 registers none is left for activations: kept from part to part they are spilled
        // (seen with AVX2).
        if (kWidth == 8) asm volatile("" ::: "memory");
        NativeI sum[M][G];
#pragma GCC unroll 6
        for (int m = 0; m < M; m++)
#pragma GCC unroll 4
          for (int g = 0; g < G; g++) sum[m][g] = NativeI{} + F::start(x[m * n_blocks], half);
#pragma GCC unroll 8
        for (int i = 0; i < 8 / F::kHalves; i += quads_at_once<F>())
          add_quads<F>(quants, spread, half, i, r, x, n_blocks, sum);
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) {
          NativeF scale, minimum;
          F::load_scales(header + spread.at(g), int(b % F::kHeaderBlocks), half, r, scale, minimum);
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
#pragma GCC unroll 6
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) store(sums + m * stride + g * kLanes, acc[m][g]);
}

// Tiles of nearly equal size that cover n tokens, so that there is no thin last one: calls
// f(index, number of tiles, first token, number of tokens).
template <class Function>
PYRO_INLINE void for_each_tile(int64_t n_tokens, Function f) {
  const int n_tiles = int((n_tokens + kMaxTokens - 1) / kMaxTokens);
  for (int i = 0; i < n_tiles; i++) {
    const Range tokens = split(n_tokens, i, n_tiles);
    f(i, n_tiles, tokens.begin, int(tokens.end - tokens.begin));
  }
}

// Panels of rows, and for each the tiles of tokens, which fetch the next panel between them: calls
// f(rows, first token, number of tokens, fetch).  A row of these stands for `groups` groups of 16,
// each group_size bytes long.
template <class Function>
PYRO_INLINE void for_each_panel(Range rows, int64_t groups, int64_t group_size, int64_t n_tokens,
                                int64_t n_cols, Function f) {
  if (n_tokens == 0) return;  // a chunk of a prompt that wants no logits, for instance
  if (n_tokens <= kStreamTokens) {
    const int64_t ahead = stream_ahead(n_tokens);
    return f(rows, 0, int(n_tokens), ahead ? Fetch{ahead, group_size} : Fetch{0, 0});
  }
  const int64_t n_rows = rows.end - rows.begin, row_bytes = groups * group_size;
  int64_t length = std::max<int64_t>(1, kPanelBytes / row_bytes);
  if (n_tokens * n_cols / kBlock * int64_t(sizeof(Q8Block)) <= kSmallBatchBytes) {
    const int64_t n_tiles = (n_tokens + kMaxTokens - 1) / kMaxTokens;
    length = std::max<int64_t>(1, groups_for(int((n_tokens + n_tiles - 1) / n_tiles)) / groups);
  } else if (const int64_t n_panels = (n_rows + length - 1) / length) {
    length = (n_rows + n_panels - 1) / n_panels;
  }
  for (int64_t begin = rows.begin; begin < rows.end; begin += length) {
    const Range panel{begin, std::min(begin + length, rows.end)};
    const int64_t n_lines = panel.end < rows.end ? group_size / 64 : 0;
    for_each_tile(n_tokens, [&](int i, int n_tiles, int64_t token, int n) {
      const Range lines = split(n_lines, i, n_tiles);
      f(panel, token, n,
        Fetch{length * row_bytes + 64 * lines.begin, 64 * (lines.end - lines.begin)});
    });
  }
}
