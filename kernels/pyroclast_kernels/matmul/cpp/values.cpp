// Products of packed plain values (f32, f16, bf16) with a ragged batch of tokens, float32
// activations: out[t, row] = sum over k of weight[row, k] * x[t, k].  See reference.py for the
// contract, packed.h for the layout, values.h for the tile and for the order of a sum.
//
// Loop order: chunk of tokens, whose activations are laid out in scratch -> panel of row groups
// that fits L2 -> tile of tokens -> groups -> steps.  Weights are used in the packed layout:
// converting or interleaving them in the register hides behind the products, and a panel copied to
// scratch first was slower at every number of tokens (by 40% at 16, by 3% at 512). Tails: the last
// group of rows is padded in memory and stored lane by lane; a tile with a number of tokens that
// has no template is computed as the next larger one, over zeros.
#include "values.h"

#include <algorithm>
#include <memory>

namespace {

// A tile's sums fill 24 of 32 registers (12 of 16 where they are narrower), so that M + G loads
// serve M * G multiply-adds.  Share of the FMA peak on Zen 4, f32, 512 tokens, 2048 x 2048: 94% at
// 8 x 3, 88% at 6 x 4, 89% at 12 x 2.
constexpr int kCells = kWidth == 16 ? 24 : kWidth == 8 ? 6 : 3;
constexpr int kMaxTokens = kWidth == 16 ? 8 : kCells;
constexpr int groups_for(int m) { return kCells / m > 4 ? 4 : kCells / m < 1 ? 1 : kCells / m; }
constexpr int smaller(int m) { return m == 8 ? 6 : m == 6 ? 4 : m - 1; }

// Half of the smallest L2 in the field (1 MiB on Zen 4), but never less than two steps of 3 groups.
constexpr int64_t kPanelBytes = 512 * 1024, kPanelStep = 6;
// A chunk's activations come from L3, 4 bytes a token and step where weights take 64 a group.  More
// would push the weights out; fewer would read them from memory more often than every 128 tokens.
constexpr int64_t kScratchBytes = 4 << 20;

// That much memory of this thread, kept until it ends; what was in it is lost.
uint8_t *scratch(int64_t n_bytes) {
  struct Free {
    void operator()(uint8_t *p) const { std::free(p); }
  };
  static thread_local std::unique_ptr<uint8_t, Free> memory;
  static thread_local int64_t size = 0;
  if (size < n_bytes) {
    size = round_up(n_bytes, 4096);
    memory.reset();  // first, so that the two are not there at once
    memory.reset(static_cast<uint8_t *>(std::aligned_alloc(4096, size_t(size))));
    if (!memory) std::abort();  // a kernel has no way to report it
  }
  return memory.get();
}

// The number of tokens of the template that computes n.
int padded(int64_t n) {
  int m = kMaxTokens;
  while (m > 1 && n <= smaller(m)) m = smaller(m);
  return m;
}

// The activations of a tile: n_tokens rows from x on, then zeros.
template <class S>
void lay_out(uint8_t *to, const float *x, int64_t n_tokens, int64_t n_cols) {
  constexpr int64_t kColumns = kChunkSteps * S::kColumns;
  const int m = padded(n_tokens);
  for (int64_t k = 0; k < n_cols; k += kColumns)
    for (int i = 0; i < m; i++, to += kChunkBytes)
      if (i < n_tokens)
        S::lay_out(to, x + i * n_cols + k, std::min(kColumns, n_cols - k));
      else
        std::memset(to, 0, kChunkBytes);
}

struct Tokens {
  int64_t first, n;
  const uint8_t *x;  // laid out
};

// A tile of tokens against some groups, G at a time; those that remain, in smaller steps.
template <class F, class S, int M, int G = groups_for(M)>
void groups_by(const MatmulArgs &a, Tokens t, Range groups) {
  const int64_t size = group_bytes<F>(a.n_cols);
  const int64_t n_steps = (a.n_cols + S::kColumns - 1) / S::kColumns;
  alignas(64) float sums[M * G * kLanes];
  int64_t g = groups.begin;
  for (; g + G <= groups.end; g += G) {
    tile<S, M, G>(a.weight + g * size, size, t.x, n_steps, sums);
    for (int64_t m = 0; m < t.n; m++)
      for (int i = 0; i < G; i++)
        store_sum(a, g + i, t.first + m, load(sums + (m * G + i) * kLanes));
  }
  if constexpr (G > 1)
    if (g < groups.end) groups_by<F, S, M, (G > 2 ? 2 : 1)>(a, t, {g, groups.end});
}

template <class F, class S, int M = kMaxTokens>
void groups_of(const MatmulArgs &a, Tokens t, Range groups) {
  if constexpr (M > 1)
    if (t.n <= smaller(M)) return groups_of<F, S, smaller(M)>(a, t, groups);
  groups_by<F, S, M>(a, t, groups);
}

template <class F, class S>
void matmul(const void *args, int part, int n_parts) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  const Range mine = split((a.n_rows + kLanes - 1) / kLanes, part, n_parts);
  const int64_t token_bytes = round_up(a.n_cols, kChunkSteps * S::kColumns) / S::kColumns * 4;
  const int64_t chunk = std::max<int64_t>(1, kScratchBytes / token_bytes / kMaxTokens) * kMaxTokens;
  const int64_t panel =
      std::max<int64_t>(1, kPanelBytes / group_bytes<F>(a.n_cols) / kPanelStep) * kPanelStep;
  for (int64_t first = 0; first < *a.n_tokens; first += chunk) {
    const int64_t end = std::min(first + chunk, *a.n_tokens);
    uint8_t *x = scratch(round_up(end - first, kMaxTokens) * token_bytes);
    const auto tile_of = [&](int64_t t) {
      return Tokens{t, std::min<int64_t>(kMaxTokens, end - t), x + (t - first) * token_bytes};
    };
    for (int64_t t = first; t < end; t += kMaxTokens)
      lay_out<S>(x + (t - first) * token_bytes, (const float *)a.x + t * a.n_cols, tile_of(t).n,
                 a.n_cols);
    for (int64_t g = mine.begin; g < mine.end; g += panel)
      for (int64_t t = first; t < end; t += kMaxTokens)
        groups_of<F, S>(a, tile_of(t), {g, std::min(g + panel, mine.end)});
  }
}

PYRO_KERNEL("matmul.f32", (matmul<F32, FmaStep<F32>>));
PYRO_KERNEL("matmul.f16", (matmul<F16, FmaStep<F16>>));
PYRO_KERNEL("matmul.bf16", (matmul<BF16, FmaStep<BF16>>));
#if defined(__AVX512BF16__)
PYRO_KERNEL("matmul.bf16@avx512bf16", (matmul<BF16, DotStep>));
#endif

}  // namespace
