// Products of packed bf16 weights in matrix registers (native/matrix_registers.h).  Activations are
// rounded to bf16, to nearest even, as by cpp-avx512bf16; the order of a sum is the instruction's.
// See reference.py for the contract, packed.h for the layout.
//
// Few tokens wait for the weights, which would have to be laid out anew for the registers: they
// carry out the instruction's steps by multiply-adds of 16 lanes, with the same bits.
//
// Loop order of many: chunk of tokens, whose activations are laid out in scratch -> panel of row
// groups -> block of columns -> two slabs of 16 tokens -> two groups -> steps of 32 columns.
// Weights are laid out as the registers take them, in pairs of columns, when a panel's first slabs
// meet them; sums wait in scratch for the next block.
// Tails: the last slab has as many rows as tokens; columns past the last are zeros.
#include <algorithm>

#include "native/matrix_registers.h"
#include "native/scratch.h"
#include "product.h"

#if defined(__AMX_BF16__) || defined(PYRO_EMULATE_MATRICES)

namespace {

constexpr int64_t kSlabs = 2, kGroups = 2;   // that the registers hold
constexpr int64_t kBoth = kSlabs * kMatrix;  // tokens of two slabs
// Whose activations are laid out together: a block of their columns stays in L2.
constexpr int64_t kChunkTokens = 512;
// Of 32 columns in a block: two slabs of tokens stay in an L1 of 48 KiB.
constexpr int64_t kBlockSteps = 18;
// Of a panel: the weights of a block, and the sums of a chunk, stay in L2 beside its tokens.
constexpr int64_t kPanelBytes = 384 * 1024, kPanelGroups = 32;

// The most tokens that multiply-adds serve as fast.
constexpr int kFewTokens = 8;

int64_t steps_of(const MatmulArgs &a) { return (a.n_cols + kMatrixColumns - 1) / kMatrixColumns; }

// Blocks of columns.  Two slabs meet all columns of a group at once: nothing is read twice.
int64_t blocks_of(const MatmulArgs &a, int64_t n_tokens) {
  if (n_tokens <= kBoth) return 1;
  return std::max<int64_t>(1, (steps_of(a) + kBlockSteps - 1) / kBlockSteps);
}

int64_t columns_of(const MatmulArgs &a, Range steps) {
  return std::min(steps.end * kMatrixColumns, a.n_cols) - steps.begin * kMatrixColumns;
}

// The most groups of a panel, of few tokens as many as they meet at once.
int64_t panel_groups(const MatmulArgs &a, int64_t n_tokens) {
  if (n_tokens <= kBoth) return kGroups;
  const int64_t n_blocks = blocks_of(a, n_tokens);
  const int64_t steps = (steps_of(a) + n_blocks - 1) / n_blocks;
  return std::clamp(kPanelBytes / (steps * kMatrixBytes) / kGroups * kGroups, kGroups,
                    kPanelGroups);
}

// 32 columns of a token as bf16.
void round_columns(const float *x, int64_t n, uint8_t *to) {
  const f32x16 low = load_n(x, n), high = load_n(x + kLanes, n - kLanes);
#if defined(__AVX512BF16__)
  const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)high.v[0], (__m512)low.v[0]);
  std::memcpy(to, &pairs, sizeof pairs);
#else
  float values[kMatrixColumns];
  store(values, low);
  store(values + kLanes, high);
  for (int i = 0; i < kMatrixColumns; i++) {
    uint32_t bits;
    std::memcpy(&bits, values + i, 4);
    const uint16_t value = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // tests have no NaN
    std::memcpy(to + 2 * i, &value, 2);
  }
#endif
}

// Tokens from `first` on, 16 or those that are left: 64 bytes of each in turn, step after step.
void lay_out_slab(const MatmulArgs &a, int64_t first, int64_t n, uint8_t *to) {
  for (int64_t k = 0; k < a.n_cols; k += kMatrixColumns)
    for (int64_t i = 0; i < n; i++, to += 64)
      round_columns((const float *)a.x + (first + i) * a.n_cols + k, a.n_cols - k, to);
}

// Some columns of a group of 16 rows, of which the last may be missing: columns 2k and 2k + 1 of
// each row in turn.
void lay_out_group(const uint8_t *columns, int64_t n_cols, uint8_t *to) {
  const int64_t n_pairs = n_cols / 2;
  for (int64_t k = 0; k < n_pairs; k++, columns += 64, to += 64) {
#if defined(__AVX512BW__)
    alignas(64) static constexpr uint16_t kInTurn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                         21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                         11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = _mm512_loadu_si512(columns);
    _mm512_store_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(kInTurn), both));
#else
    for (int row = 0; row < kLanes; row++)
      for (int i = 0; i < 2; i++) std::memcpy(to + 4 * row + 2 * i, columns + 32 * i + 2 * row, 2);
#endif
  }
  const int64_t n_bytes = (n_cols + kMatrixColumns - 1) / kMatrixColumns * kMatrixBytes;
  std::memset(to, 0, size_t(n_bytes - 64 * n_pairs));
  if (n_cols % 2)
    for (int row = 0; row < kLanes; row++) std::memcpy(to + 4 * row, columns + 2 * row, 2);
}

// A block of columns of up to two slabs and of up to two groups, laid out.
struct Operands {
  const uint8_t *tokens[kSlabs];
  const uint8_t *weights;
  int64_t n_steps;
  const uint8_t *fetched;  // weights that are laid out later, into L2: of each group so many lines
  int64_t n_lines, group_size;
};

// Sums of 32 tokens by two groups that wait for the next block of columns.
using Sums = float[kBoth][kGroups][kLanes];

template <int T>
PYRO_INLINE void load_sums(MatrixRegisters &registers, const Sums *before) {
  if (before)
    registers.load_sums<T>((*before)[T / 2 * kMatrix][T % 2], kGroups * kLanes);
  else
    registers.clear<T>();
}

// Adds to the sums before, or to 0.  Those of token m and group g come to to + m * stride + 16 * g.
template <int Slabs, int Groups>
void product(MatrixRegisters &registers, const Operands &o, int n_first, int n_second,
             const Sums *before, float *to, int64_t stride) {
  const int64_t first_bytes = 64 * n_first, second_bytes = 64 * n_second;
  const int64_t group_bytes = o.n_steps * kMatrixBytes;
  const uint8_t *x = o.tokens[0], *x_second = o.tokens[1], *w = o.weights;
  const uint8_t *fetched = o.fetched, *fetch_end = fetched + 64 * o.n_lines;
  const int64_t n_fetched = o.n_steps ? (o.n_lines + o.n_steps - 1) / o.n_steps : 0;
  load_sums<0>(registers, before);
  if constexpr (Groups > 1) load_sums<1>(registers, before);
  if constexpr (Slabs > 1) load_sums<2>(registers, before);
  if constexpr (Slabs > 1 && Groups > 1) load_sums<3>(registers, before);
  for (int64_t step = 0; step < o.n_steps; step++) {
    registers.load_tokens<0>(x);
    registers.load_weights<0>(w);
    if constexpr (Groups > 1) registers.load_weights<1>(w + group_bytes);
    if constexpr (Slabs > 1) registers.load_tokens<1>(x_second);
    registers.multiply<0>();
    if constexpr (Groups > 1) registers.multiply<1>();
    if constexpr (Slabs > 1) registers.multiply<2>();
    if constexpr (Slabs > 1 && Groups > 1) registers.multiply<3>();
    for (int64_t i = 0; i < n_fetched && fetched < fetch_end; i++, fetched += 64) {
      __builtin_prefetch(fetched, 0, 2);
      if constexpr (Groups > 1) __builtin_prefetch(fetched + o.group_size, 0, 2);
    }
    x += first_bytes, x_second += second_bytes, w += kMatrixBytes;
  }
  registers.store_sums<0>(to, stride);
  if constexpr (Groups > 1) registers.store_sums<1>(to + kLanes, stride);
  if constexpr (Slabs > 1) registers.store_sums<2>(to + kMatrix * stride, stride);
  if constexpr (Slabs > 1 && Groups > 1)
    registers.store_sums<3>(to + kMatrix * stride + kLanes, stride);
}

// Tokens whose activations are laid out: slabs of 16, step after step.
struct Chunk {
  int64_t begin, n;
  const uint8_t *x;
};

// A block of columns of some groups, whose weights are laid out at `w`.
struct Panel {
  Range groups, steps;
  uint8_t *w;
  const uint8_t *next;  // weights that are laid out after this: of the first group
  int64_t next_bytes;   // of each group, 0 at the end
};

// Up to two slabs by a panel: the first two lay its weights out.
void slabs_by_panel(const MatmulArgs &a, const Chunk &chunk, int64_t pair, const Panel &panel,
                    Sums *sums) {
  const Range groups = panel.groups, steps = panel.steps;
  uint8_t *w = panel.w;
  const int64_t token = pair * kBoth, n_pairs = (chunk.n + kBoth - 1) / kBoth;
  const int n_first = int(std::min<int64_t>(kMatrix, chunk.n - token));
  const int n_second = int(std::clamp<int64_t>(chunk.n - token - kMatrix, 0, kMatrix));
  const int64_t size = group_bytes<BF16>(a.n_cols), n_cols = columns_of(a, steps);
  const int64_t laid_bytes = (steps.end - steps.begin) * kMatrixBytes;
  const uint8_t *first = chunk.x + token * steps_of(a) * 64,
                *second = first + steps_of(a) * n_first * 64;
  Operands o{};
  o.tokens[0] = first + steps.begin * n_first * 64;
  o.tokens[1] = second + steps.begin * n_second * 64;
  o.n_steps = steps.end - steps.begin;
  o.group_size = size;
  const Range lines = split(panel.next_bytes / 64, int(pair), int(n_pairs));
  o.n_lines = lines.end - lines.begin;
  const bool is_last = steps.end == steps_of(a);
  MatrixRegisters registers(n_first, n_second);
  for (int64_t g = groups.begin; g < groups.end;
       g += kGroups, w += kGroups * laid_bytes, sums += n_pairs) {
    const int64_t n = std::min(kGroups, groups.end - g);
    const uint8_t *columns = a.weight + g * size + steps.begin * kMatrixBytes;
    if (pair == 0)
      for (int64_t i = 0; i < n; i++) lay_out_group(columns + i * size, n_cols, w + i * laid_bytes);
    o.weights = w;
    o.fetched = panel.next + (g - groups.begin) * size + 64 * lines.begin;
    const auto run = n_second ? (n == 2 ? product<2, 2> : product<2, 1>)
                              : (n == 2 ? product<1, 2> : product<1, 1>);
    const Sums *before = steps.begin ? &sums[pair] : nullptr;
    if (!is_last) {
      run(registers, o, n_first, n_second, before, *sums[pair][0], kGroups * kLanes);
      continue;
    }
    // Asked for now, the lines of `out` are there when the sums are.
    float *out = a.out + (chunk.begin + token) * a.out_stride + g * kLanes;
    for (int64_t m = 0; m < n_first + n_second; m++)
      for (int64_t i = 0; i < n; i++) __builtin_prefetch(out + m * a.out_stride + i * kLanes, 1);
    if (!a.bias && !a.accumulate && (g + n) * kLanes <= a.n_rows) {
      run(registers, o, n_first, n_second, before, out, a.out_stride);
      continue;
    }
    run(registers, o, n_first, n_second, before, *sums[pair][0], kGroups * kLanes);
    for (int64_t m = 0; m < n_first + n_second; m++)
      for (int64_t i = 0; i < n; i++)
        store_sum(a, g + i, chunk.begin + token + m, load(sums[pair][m][i]));
  }
}

// Some groups by the tokens of a chunk; after them come those at `next`, if there are more.
void panel_by_chunk(const MatmulArgs &a, Range groups, const uint8_t *next, const Chunk &chunk,
                    uint8_t *w, Sums *sums) {
  const uint8_t *weights = a.weight + groups.begin * group_bytes<BF16>(a.n_cols);
  const int64_t n_blocks = blocks_of(a, chunk.n);
  const auto block = [&](int64_t b) { return split(steps_of(a), int(b), int(n_blocks)); };
  for (int64_t b = 0; b < n_blocks; b++) {
    const bool is_last = b + 1 == n_blocks;
    Panel panel{groups, block(b), w, is_last ? next : weights + block(b).end * kMatrixBytes, 0};
    if (panel.next) panel.next_bytes = columns_of(a, block(is_last ? 0 : b + 1)) * kLanes * 2;
    for (int64_t pair = 0; pair * kBoth < chunk.n; pair++)
      slabs_by_panel(a, chunk, pair, panel, sums);
  }
}

// ---- few tokens ---------------------------------------------------------------------------------

// One step: 32 columns of M tokens by G groups.  The even columns come first: both sums at once are
// more than the registers hold.
template <int M, int G>
PYRO_INLINE void add_step(const uint8_t *w, int64_t group_bytes, const float *x,
                          f32x16 (&acc)[M][G]) {
  f32x16 sums[2][M][G];
#pragma GCC unroll 2
  for (int odd = 0; odd < 2; odd++) {
    f32x16 sum[M][G] = {};
#pragma GCC unroll 2
    for (int k = odd; k < kMatrixColumns; k += 2) {
      f32x16 column[G];
#pragma GCC unroll 4
      for (int g = 0; g < G; g++)
        column[g] = load_bfloat((const uint16_t *)(w + g * group_bytes) + k * kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        const f32x16 value = set1(x[m * kMatrixColumns + k]);
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) sum[m][g] = fma(column[g], value, sum[m][g]);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) sums[odd][m][g] = sum[m][g];
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) acc[m][g] = acc[m][g] + (sums[0][m][g] + sums[1][m][g]);
}

// M tokens by G groups; `x` is laid out by lay_out_few.
template <int M, int G>
void few_by_groups(const MatmulArgs &a, const float *x, int64_t group) {
  const int64_t size = group_bytes<BF16>(a.n_cols), n_whole = a.n_cols / kMatrixColumns;
  const uint8_t *w = a.weight + group * size;
  f32x16 acc[M][G] = {};
  for (int64_t step = 0; step < n_whole; step++, w += kMatrixBytes, x += M * kMatrixColumns)
    add_step<M, G>(w, size, x, acc);
  if (const int64_t left = a.n_cols % kMatrixColumns) {
    alignas(64) uint8_t last[G * kMatrixBytes] = {};
    for (int g = 0; g < G; g++)
      std::memcpy(last + g * kMatrixBytes, w + g * size, size_t(left * kLanes * 2));
    add_step<M, G>(last, kMatrixBytes, x, acc);
  }
  for (int m = 0; m < M; m++)
    for (int g = 0; g < G; g++) store_sum(a, group + g, m, acc[m][g]);
}

// 32 columns of each token in turn, rounded to bf16.
void lay_out_few(const MatmulArgs &a, float *to) {
  for (int64_t k = 0; k < a.n_cols; k += kMatrixColumns)
    for (int64_t m = 0; m < *a.n_tokens; m++, to += kMatrixColumns) {
      alignas(64) uint16_t rounded[kMatrixColumns];
      round_columns((const float *)a.x + m * a.n_cols + k, a.n_cols - k, (uint8_t *)rounded);
      store(to, load_bfloat(rounded));
      store(to + kLanes, load_bfloat(rounded + kLanes));
    }
}

// As many groups at once as fill 24 registers, the others one by one.
template <int M>
void few_tokens(const MatmulArgs &a, const float *x, Range groups) {
  constexpr int G = std::min(4, 24 / M);
  int64_t g = groups.begin;
  for (; g + G <= groups.end; g += G) few_by_groups<M, G>(a, x, g);
  for (; g < groups.end; g++) few_by_groups<M, 1>(a, x, g);
}

template <int M = kFewTokens>
void few(const MatmulArgs &a, const float *x, Range groups) {
  if constexpr (M > 1)
    if (*a.n_tokens < M) return few<M - 1>(a, x, groups);
  few_tokens<M>(a, x, groups);
}

// ---- the kernel ---------------------------------------------------------------------------------

// While it lives, small numbers count as 0, as in the registers: in the sums of few tokens, and in
// what is added to the sums of few and of many.
class SmallNumbersAreZero {
#if defined(__AMX_BF16__)
 public:
  SmallNumbersAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~SmallNumbersAreZero() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

struct Share {
  Range tokens, groups;
};

// What a part multiplies: some of the tokens by some of the groups.  Each part lays out its own
// operands, so that the parts are a grid in which they lay out least together.  A token's column
// takes twice the time of a row's: 4 bytes of float32 become 2.
Share share_of(const MatmulArgs &a, int part, int n_parts) {
  const int64_t n_both = (*a.n_tokens + kBoth - 1) / kBoth;
  const auto work = [&](int n) { return 2 * *a.n_tokens * (n_parts / n) + a.n_rows * n; };
  int n_shares = 1;  // of the tokens
  for (int n = 2; n <= n_parts && n <= n_both; n++) {
    const bool is_even = n_both % n == 0 || n_both >= 8 * n;  // none has an eighth more to do
    if (n_parts % n == 0 && is_even && work(n) < work(n_shares)) n_shares = n;
  }
  const Range both = split(n_both, part % n_shares, n_shares);
  return {{kBoth * both.begin, std::min(kBoth * both.end, *a.n_tokens)},
          split((a.n_rows + kLanes - 1) / kLanes, part / n_shares, n_parts / n_shares)};
}

int64_t token_bytes(const MatmulArgs &a) { return steps_of(a) * 64; }

constexpr int64_t kSumsBytes = kChunkTokens / kBoth * (kPanelGroups / kGroups) * sizeof(Sums);

int64_t matmul_bytes(const void *args) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  return kChunkTokens * token_bytes(a) + kSumsBytes +
         std::max(kPanelBytes / kMatrixBytes, kGroups * steps_of(a)) * kMatrixBytes;
}

void matmul(const void *args, int part, int n_parts) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  const Share mine = share_of(a, part, n_parts);
  ScratchMemory memory(matmul_bytes(args));
  uint8_t *x = memory.bytes(), *w = x + kChunkTokens * token_bytes(a) + kSumsBytes;
  Sums *sums = (Sums *)(x + kChunkTokens * token_bytes(a));
  [[maybe_unused]] const SmallNumbersAreZero scope;
  if (*a.n_tokens == 0) return;
  if (*a.n_tokens <= kFewTokens) {
    lay_out_few(a, (float *)x);
    return few(a, (const float *)x, mine.groups);
  }
  for (int64_t begin = mine.tokens.begin; begin < mine.tokens.end; begin += kChunkTokens) {
    const Chunk chunk{begin, std::min(kChunkTokens, mine.tokens.end - begin), x};
    for (int64_t t = 0; t < chunk.n; t += kMatrix)
      lay_out_slab(a, begin + t, std::min<int64_t>(kMatrix, chunk.n - t), x + t * token_bytes(a));
    const int64_t n_groups = mine.groups.end - mine.groups.begin;
    const int64_t n_panels = (n_groups + panel_groups(a, chunk.n) - 1) / panel_groups(a, chunk.n);
    const int64_t length =
        n_panels ? round_up((n_groups + n_panels - 1) / n_panels, kGroups) : kGroups;
    for (int64_t g = mine.groups.begin; g < mine.groups.end; g += length) {
      const int64_t end = std::min(g + length, mine.groups.end);
      const uint8_t *next =
          end < mine.groups.end ? a.weight + end * group_bytes<BF16>(a.n_cols) : nullptr;
      panel_by_chunk(a, {g, end}, next, chunk, w, sums);
    }
  }
}

PYRO_KERNEL("matmul.bf16@amxbf16", matmul, matmul_bytes);

}  // namespace
#endif
