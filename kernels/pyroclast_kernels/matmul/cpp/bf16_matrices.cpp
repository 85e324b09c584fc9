// Products of packed bf16 weights in matrix registers (native/matrix_registers.h).  Activations are
// rounded to bf16, to nearest even, as by cpp-avx512bf16; the order of a sum is the instruction's.
// See reference.py for the contract, packed.h for the layout.
//
// Few tokens wait for the weights, which would have to be laid out anew for the registers: they
// carry out the instruction's steps by multiply-adds of 16 lanes, with the same bits.
//
// Loop order of many: chunk of tokens, whose activations are laid out in scratch -> panel of row
// groups -> two slabs of 16 tokens -> two groups -> steps of 32 columns.  Weights are laid out as
// the registers take them when a panel's first slabs meet them: in pairs of columns.
// Tails: the last slab has as many rows as tokens; columns past the last are zeros.
#include <algorithm>

#include "native/matrix_registers.h"
#include "native/scratch.h"
#include "product.h"

#if defined(__AMX_BF16__) || defined(PYRO_EMULATE_MATRICES)

namespace {

// Of weights laid out: a quarter of the L2 of every CPU that has these registers, beside as much of
// the next panel and the activations of two slabs.
constexpr int64_t kPanelBytes = 512 * 1024;
// Whose activations are laid out together: they come from L3, once for each panel.
constexpr int64_t kChunkTokens = 512;
constexpr int64_t kSlabs = 2, kGroups = 2;  // that the registers hold

// The most tokens that multiply-adds serve as fast.
constexpr int kFewTokens = 8;

int64_t steps_of(const MatmulArgs &a) { return (a.n_cols + kMatrixColumns - 1) / kMatrixColumns; }

// Groups of a panel, of few tokens as many as they meet at once.
int64_t panel_groups(const MatmulArgs &a, int64_t n_tokens) {
  if (n_tokens <= kSlabs * kMatrix) return kGroups;
  return std::max<int64_t>(1, kPanelBytes / kGroups / (steps_of(a) * kMatrixBytes)) * kGroups;
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

// A group of 16 rows: columns 2k and 2k + 1 of each row in turn.
void lay_out_group(const uint8_t *group, int64_t n_cols, uint8_t *to) {
  const int64_t n_pairs = n_cols / 2;
  for (int64_t k = 0; k < n_pairs; k++, group += 64, to += 64) {
#if defined(__AVX512BW__)
    alignas(64) static constexpr uint16_t kInTurn[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                         21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                         11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i columns = _mm512_loadu_si512(group);
    _mm512_store_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(kInTurn), columns));
#else
    for (int row = 0; row < kLanes; row++)
      for (int i = 0; i < 2; i++) std::memcpy(to + 4 * row + 2 * i, group + 32 * i + 2 * row, 2);
#endif
  }
  const int64_t n_bytes = (n_cols + kMatrixColumns - 1) / kMatrixColumns * kMatrixBytes;
  std::memset(to, 0, size_t(n_bytes - 64 * n_pairs));
  if (n_cols % 2)
    for (int row = 0; row < kLanes; row++) std::memcpy(to + 4 * row, group + 2 * row, 2);
}

// Up to two slabs of activations, and the weights of up to two groups, laid out.
struct Operands {
  const uint8_t *tokens[kSlabs];
  int n_tokens[kSlabs];
  const uint8_t *weights;
  int64_t n_steps;
  const uint8_t *fetched, *fetch_end;  // weights of the next panel, into L2
};

// The sums of token m and group g lie at sums + m * stride + 16 * g.
template <int Slabs, int Groups>
void product(MatrixRegisters &registers, const Operands &o, float *sums, int64_t stride) {
  const int64_t first_bytes = 64 * o.n_tokens[0], second_bytes = 64 * o.n_tokens[1];
  const int64_t group_bytes = o.n_steps * kMatrixBytes;
  const uint8_t *x = o.tokens[0], *x_second = o.tokens[1], *w = o.weights;
  const uint8_t *fetched = o.fetched;
  const int64_t fetch_step =
      o.n_steps ? round_up((o.fetch_end - fetched + o.n_steps - 1) / o.n_steps, 64) : 0;
  registers.clear<0>();
  if constexpr (Groups > 1) registers.clear<1>();
  if constexpr (Slabs > 1) registers.clear<2>();
  if constexpr (Slabs > 1 && Groups > 1) registers.clear<3>();
  for (int64_t step = 0; step < o.n_steps; step++) {
    registers.load_tokens<0>(x);
    registers.load_weights<0>(w);
    if constexpr (Groups > 1) registers.load_weights<1>(w + group_bytes);
    if constexpr (Slabs > 1) registers.load_tokens<1>(x_second);
    registers.multiply<0>();
    if constexpr (Groups > 1) registers.multiply<1>();
    if constexpr (Slabs > 1) registers.multiply<2>();
    if constexpr (Slabs > 1 && Groups > 1) registers.multiply<3>();
    for (const uint8_t *end = fetched + fetch_step; fetched < end && fetched < o.fetch_end;
         fetched += 64)
      __builtin_prefetch(fetched, 0, 2);
    x += first_bytes, x_second += second_bytes, w += kMatrixBytes;
  }
  float *second = sums + kMatrix * stride;
  registers.store_sums<0>(sums, stride);
  if constexpr (Groups > 1) registers.store_sums<1>(sums + kLanes, stride);
  if constexpr (Slabs > 1) registers.store_sums<2>(second, stride);
  if constexpr (Slabs > 1 && Groups > 1) registers.store_sums<3>(second + kLanes, stride);
}

// Two slabs, or one, by the groups of a panel, whose weights are laid out at `w`.
void slabs_by_panel(const MatmulArgs &a, Operands o, int64_t first_token, Range groups, uint8_t *w,
                    Range fetched, bool is_first) {
  const int64_t packed_bytes = group_bytes<BF16>(a.n_cols), laid_bytes = o.n_steps * kMatrixBytes;
  const int64_t n_tokens = o.n_tokens[0] + o.n_tokens[1];
  MatrixRegisters registers(o.n_tokens[0], o.n_tokens[1]);
  for (int64_t g = groups.begin; g < groups.end; g += kGroups) {
    const int64_t n = std::min(kGroups, groups.end - g);
    const uint8_t *packed = a.weight + g * packed_bytes;
    o.weights = w + (g - groups.begin) * laid_bytes;
    o.fetched = packed + (groups.end - groups.begin) * packed_bytes;
    o.fetch_end = o.fetched + n * fetched.end;
    o.fetched += n * fetched.begin;
    if (is_first)
      for (int64_t i = 0; i < n; i++)
        lay_out_group(packed + i * packed_bytes, a.n_cols, w + (g - groups.begin + i) * laid_bytes);
    const auto run = o.n_tokens[1] ? (n == 2 ? product<2, 2> : product<2, 1>)
                                   : (n == 2 ? product<1, 2> : product<1, 1>);
    // Asked for now, the lines of `out` are there when the sums are.
    float *out = a.out + first_token * a.out_stride + g * kLanes;
    for (int64_t m = 0; m < n_tokens; m++)
      for (int64_t i = 0; i < n; i++) __builtin_prefetch(out + m * a.out_stride + i * kLanes, 1);
    if (!a.bias && !a.accumulate && (g + n) * kLanes <= a.n_rows) {
      run(registers, o, out, a.out_stride);
      continue;
    }
    alignas(64) float sums[kSlabs * kMatrix][kGroups][kLanes];
    run(registers, o, **sums, kGroups * kLanes);
    for (int64_t m = 0; m < n_tokens; m++)
      for (int64_t i = 0; i < n; i++) store_sum(a, g + i, first_token + m, load(sums[m][i]));
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

int64_t token_bytes(const MatmulArgs &a) { return steps_of(a) * 64; }

int64_t matmul_bytes(const void *args) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  return kChunkTokens * token_bytes(a) + panel_groups(a, kChunkTokens) * steps_of(a) * kMatrixBytes;
}

void matmul(const void *args, int part, int n_parts) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  const Range mine = split((a.n_rows + kLanes - 1) / kLanes, part, n_parts);
  ScratchMemory memory(matmul_bytes(args));
  uint8_t *x = memory.bytes(), *w = x + kChunkTokens * token_bytes(a);
  [[maybe_unused]] const SmallNumbersAreZero scope;
  if (*a.n_tokens == 0) return;
  if (*a.n_tokens <= kFewTokens) {
    lay_out_few(a, (float *)x);
    return few(a, (const float *)x, mine);
  }
  for (int64_t chunk = 0; chunk < *a.n_tokens; chunk += kChunkTokens) {
    const int64_t n = std::min(kChunkTokens, *a.n_tokens - chunk);
    for (int64_t t = 0; t < n; t += kMatrix)
      lay_out_slab(a, chunk + t, std::min<int64_t>(kMatrix, n - t), x + t * token_bytes(a));
    const int64_t length = panel_groups(a, n), n_pairs = (n + 2 * kMatrix - 1) / (2 * kMatrix);
    for (int64_t g = mine.begin; g < mine.end; g += length) {
      const Range panel{g, std::min(g + length, mine.end)};
      const int64_t n_lines = panel.end < mine.end ? group_bytes<BF16>(a.n_cols) / 64 : 0;
      for (int64_t pair = 0; pair < n_pairs; pair++) {
        const int64_t t = pair * 2 * kMatrix;
        Operands o{};
        o.n_steps = steps_of(a);
        for (int i = 0; i < kSlabs; i++) {
          o.tokens[i] = x + (t + i * kMatrix) * token_bytes(a);
          o.n_tokens[i] = int(std::clamp<int64_t>(n - t - i * kMatrix, 0, kMatrix));
        }
        const Range lines = split(n_lines, int(pair), int(n_pairs));
        slabs_by_panel(a, o, chunk + t, panel, w, {64 * lines.begin, 64 * lines.end}, pair == 0);
      }
    }
  }
}

PYRO_KERNEL("matmul.bf16@amxbf16", matmul, matmul_bytes);

}  // namespace
#endif
