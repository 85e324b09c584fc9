// Queries and probabilities as int16, which meet the int8 cells of q8_0.
//
// Sums are exact: of 32 dimensions below 32 * 32767 * 127 < 2^27, of a split's 512 positions below
// 512 * 32767 * 127 < 2^31.  A probability is multiplied by its position's scale first, then
// rounded to 15 bits of the largest such product of its row and split.
#pragma once

#include "tile.h"

constexpr float kMaxWord = 32767.0f;

// n of a query's values as int16 pairs, `stride` pairs apart; returns their scale: NaN if one is
// not finite.
PYRO_INLINE float query_words(const float *q, int64_t n, Pair *out, int64_t stride) {
  f32x16 largest = set1(0.0f), poison = set1(0.0f);
  for (int64_t d = 0; d < n; d += kLanes) {
    const f32x16 x = load_n(q + d, n - d);
    largest = max(largest, abs(finite_or_zero(x)));
    poison = poison + x * set1(0.0f);
  }
  const float top = reduce_max(largest);
  const f32x16 inverse = set1(top > 0 ? kMaxWord / top : 0.0f);
  for (int64_t d = 0; d < n; d += 2 * kLanes) {
    Pair pairs[kLanes];
    store_words(pairs, finite_or_zero(load_n(q + d, n - d)) * inverse,
                finite_or_zero(load_n(q + d + kLanes, n - d - kLanes)) * inverse);
    const int64_t n_pairs = std::min<int64_t>(kLanes, (n - d) / 2);
    for (int64_t i = 0; i < n_pairs; i++) out[(d / 2 + i) * stride] = pairs[i];
  }
  return top / kMaxWord + reduce_add(poison);
}

// Bits of the largest of numbers >= 0, where NaN, of either sign, and infinity come last.
PYRO_INLINE i32x16 max_bits(i32x16 a, f32x16 x) {
  typedef uint32_t NativeU __attribute__((vector_size(4 * kWidth)));
  PYRO_EACH {
    const NativeU bits = (NativeU)x.v[r], before = (NativeU)a.v[r];
    a.v[r] = (NativeI)(before > bits ? before : bits);
  }
  return a;
}

// words = probs * scales, rounded; returns the factor that undoes it: NaN if a product is not
// finite.  n positions, a multiple of 32.
PYRO_INLINE float probability_words(const float *probs, const float *scales, int64_t n,
                                    Pair *words) {
  i32x16 largest = set1i(0);
  for (int64_t i = 0; i < n; i += kLanes)
    largest = max_bits(largest, load(probs + i) * load(scales + i));
  f32x16 as_float;
  PYRO_EACH as_float.v[r] = (NativeF)largest.v[r];
  const float top = reduce_max(as_float), poison = reduce_add(as_float * set1(0.0f));
  const f32x16 inverse = set1(top > 0 ? kMaxWord / top : 0.0f);
  for (int64_t i = 0; i < n; i += 2 * kLanes) {
    const f32x16 a = load(probs + i) * load(scales + i);
    const f32x16 b = load(probs + i + kLanes) * load(scales + i + kLanes);
    store_words(words + i / 2, a * inverse, b * inverse);
  }
  return top / kMaxWord + poison;
}

// The values of one group of dimensions from d on, as value_rows.
template <int R, int L>
void byte_value_rows(const Values<ByteCells> &v, const Pair *words, const float *factors,
                     float *values, int64_t d) {
  i32x16 acc[R][L] = {};
  value_sums<ByteCells, R, L>(acc, v, words, d);
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int l = 0; l < L; l++)
      store(values + r * kValueStride + d + l * kLanes, to_float(acc[r][l]) * set1(factors[r]));
}

template <int L, int R = Registers<ByteCells>::kScoreRows>
void byte_value_some(int n, const Values<ByteCells> &v, const Pair *words, const float *factors,
                     float *values, int64_t d) {
  if constexpr (R > 1)
    if (n < R) return byte_value_some<L, R - 1>(n, v, words, factors, values, d);
  byte_value_rows<R, L>(v, words, factors, values, d);
}

// All dimensions: group by group, since each has scales of its own.  scales (groups, kSplit).
PYRO_INLINE void byte_values(const Values<ByteCells> &v, int n_rows, const float *scales,
                             GroupBuffers &buffers) {
  constexpr int kRows = Registers<ByteCells>::kScoreRows;
  const int64_t padded = (v.n_positions + kPositions - 1) / kPositions * kPositions;
  for (int64_t d = 0; d < v.stride; d += 32) {
    float factors[kGroup];
    for (int r = 0; r < n_rows; r++)
      factors[r] = probability_words(buffers.scores + r * kScoreStride, scales + d / 32 * kSplit,
                                     padded, buffers.words + r * kScoreStride / 2);
    for (int r = 0; r < n_rows; r += kRows) {
      const int n = std::min(kRows, n_rows - r);
      const Pair *words = buffers.words + r * kScoreStride / 2;
      float *values = buffers.values + r * kValueStride;
      if (Registers<ByteCells>::kScoreVectors == 2 && d + 32 <= v.stride) {
        byte_value_some<2>(n, v, words, factors + r, values, d);
      } else {
        byte_value_some<1>(n, v, words, factors + r, values, d);
        if (d + 32 <= v.stride) byte_value_some<1>(n, v, words, factors + r, values, d + kLanes);
      }
    }
  }
}
