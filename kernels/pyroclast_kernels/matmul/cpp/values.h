// One tile of a product of plain values: M tokens by G groups of 16 rows, all sums in registers.
//
// A step is what one multiply-add instruction takes of a row: one column (float32), or two
// neighbouring columns (the dot product of bfloat16 pairs).  Either way a step's weights are one
// vector of 16 rows, and its activations 4 bytes of a token, broadcast.
// Activations are laid out first, in chunks of 16 steps: 64 bytes of each token of the tile, side
// by side.  So the loop has one pointer for all tokens, and tokens whose rows lie a power of two
// apart do not fight for one set of the L1 cache. A row's sum is one chain of steps from left to
// right, whatever M and G.
#pragma once

#include "product.h"

constexpr int kChunkSteps = 16;
constexpr int kChunkBytes = 64;  // of one token

// ---- kinds of step ------------------------------------------------------------------------------
// kColumns and kBytes are the columns of a step, and its bytes in a group of 16 rows.

// float32 multiply-add; F is the format of the weights.
template <class F>
struct FmaStep {
  static constexpr int kColumns = 1;
  static constexpr int64_t kBytes = F::kValueBytes * kLanes;
  using Vector = f32x16;
  static PYRO_INLINE Vector load(const uint8_t *p) { return F::load(p); }
  static PYRO_INLINE Vector broadcast(const uint8_t *x) {
    float value;
    std::memcpy(&value, x, 4);
    return set1(value);
  }
  static PYRO_INLINE f32x16 add(f32x16 sum, Vector w, Vector x) { return fma(w, x, sum); }
  // The first n activations of a token -> a chunk, zeros behind them.
  static PYRO_INLINE void lay_out(uint8_t *chunk, const float *x, int64_t n) {
    store((float *)chunk, load_n(x, n));
  }
};

#if defined(__AVX512BF16__)
// Pairs of bfloat16: activations are rounded to nearest even, products are exact, sums float32.
// The layout has two columns of 16 rows in 64 bytes; they are interleaved in the register, which
// costs nothing beside the products of two tokens.  Where the number of columns is odd, the last
// step reads the zeros that pad a group to 64 bytes.
struct DotStep {
  static constexpr int kColumns = 2;
  static constexpr int64_t kBytes = 64;
  using Vector = __m512i;
  static PYRO_INLINE Vector load(const uint8_t *p) {
    alignas(64) static constexpr uint16_t kInterleave[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), _mm512_loadu_si512(p));
  }
  static PYRO_INLINE Vector broadcast(const uint8_t *x) {
    int32_t pair;
    std::memcpy(&pair, x, 4);
    return _mm512_set1_epi32(pair);
  }
  static PYRO_INLINE f32x16 add(f32x16 sum, Vector w, Vector x) {
    sum.v[0] = (NativeF)_mm512_dpbf16_ps((__m512)sum.v[0], (__m512bh)w, (__m512bh)x);
    return sum;
  }
  static PYRO_INLINE void lay_out(uint8_t *chunk, const float *x, int64_t n) {
    const f32x16 low = load_n(x, n), high = load_n(x + kLanes, n - kLanes);
    const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)high.v[0], (__m512)low.v[0]);
    std::memcpy(chunk, &pairs, sizeof pairs);
  }
};
#endif

// How far ahead of a tile of several tokens its weights are fetched, 0 for the CPU's own prefetcher
// alone, which stops at the end of a page. One token lost by it. So did prompts in bf16: a step
// reads half a line of such values, and fetches each line twice. A tile whose weights the
// tiles before have fetched needs none. Not measured where registers have another width.
template <class S, int M>
constexpr int64_t kFetchAhead = kWidth == 8 && M > 1 && S::kBytes == 64 ? 2048 : 0;

// ---- the tile -----------------------------------------------------------------------------------

template <class S, int M, int G, int64_t kAhead>
PYRO_INLINE void add_step(const uint8_t *weights, int64_t group_size, const uint8_t *x,
                          f32x16 (&acc)[M][G]) {
  typename S::Vector w[G];
#pragma GCC unroll 4
  for (int g = 0; g < G; g++) {
    if constexpr (kAhead != 0) __builtin_prefetch(weights + g * group_size + kAhead);
    w[g] = S::load(weights + g * group_size);
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
    const typename S::Vector value = S::broadcast(x + m * kChunkBytes);
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) acc[m][g] = S::add(acc[m][g], w[g], value);
  }
}

// The sums of n_steps steps, those of token m from sums + m * stride on, group after group; weights
// of the first group, x of the tile's chunks.
// The caller stores the sums: inlined here, M * G times, it took four times
// as long to compile and made the loop slower.
template <class S, int M, int G>
void tile(const uint8_t *weights, int64_t group_size, const uint8_t *x, int64_t n_steps,
          Fetch fetch, float *sums, int64_t stride) {
  // In two runs of lines: along several, the CPU reads memory faster than along one.
  const int64_t half = fetch.n_bytes / 128 * 64;
  const uint8_t *fetched = weights + fetch.ahead, *fetch_end = fetched + fetch.n_bytes - half;
  const int64_t fetch_step =
      fetch.n_bytes ? round_up(fetch.n_bytes * kChunkSteps / n_steps / 2, 64) : 0;
  // In a panel of one group: what is fetched lies in the group behind it, and this one was fetched
  // by the tiles before.
  const bool is_fetched =
      kFetchAhead<S, M> != 0 && fetch.n_bytes != 0 && fetch.ahead < 2 * group_size;
  f32x16 acc[M][G];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) acc[m][g] = set1(0.0f);
  int64_t n = n_steps;
  for (; n >= kChunkSteps; n -= kChunkSteps, x += M * kChunkBytes) {
    for (const uint8_t *end = fetched + fetch_step; fetched < end && fetched < fetch_end;
         fetched += 64)
#pragma GCC unroll 4
      for (int g = 0; g < G; g++) {
        __builtin_prefetch(fetched + g * group_size, 0, 2);
        __builtin_prefetch(fetched + g * group_size + half, 0, 2);
      }
    if (is_fetched) {
#pragma GCC unroll 16
      for (int s = 0; s < kChunkSteps; s++, weights += S::kBytes)
        add_step<S, M, G, 0>(weights, group_size, x + 4 * s, acc);
    } else {
#pragma GCC unroll 2
      for (int s = 0; s < kChunkSteps; s++, weights += S::kBytes)
        add_step<S, M, G, kFetchAhead<S, M>>(weights, group_size, x + 4 * s, acc);
    }
  }
  for (; n > 0; n--, weights += S::kBytes, x += 4)
    add_step<S, M, G, 0>(weights, group_size, x, acc);
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) store(sums + m * stride + g * kLanes, acc[m][g]);
}
