// Products of bytes, which every product with block-quantized weights comes down to.
//
// acc[lane] += sum over 4 bytes of w[lane][j] * x[j].  `w` holds 16 lanes of 4 bytes, `x` is 4
// signed bytes (-127 to 127), a Quad, for every lane.  dot_small takes unsigned w <= 127;
// dot_offset takes w + 128 stored unsigned and, where kOffsetInDot is false, already works on w
// itself. The sums are exact, so that every level gives the same bits.
#pragma once

#include "simd.h"

// Quad k of an activation's block.
#if defined(__aarch64__)
using neon::Quad;
PYRO_INLINE Quad load_quad(const int8_t *values, int k) { return neon::load_quad(values, k); }
#else
using Quad = int32_t;
PYRO_INLINE Quad load_quad(const int8_t *values, int k) {
  Quad quad;
  std::memcpy(&quad, values + 4 * k, sizeof quad);
  return quad;
}
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__ARM_FEATURE_MATMUL_INT8)
constexpr bool kOffsetInDot = true;  // the caller starts acc at -128 * sum(x)
#else
constexpr bool kOffsetInDot = false;
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr bool kHasPairs = false;

PYRO_INLINE NativeI dot_offset(NativeI acc, NativeI w, Quad x) {
#if defined(__AVX512VNNI__)
  return (NativeI)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(x));
#else
  return (NativeI)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, _mm256_set1_epi32(x));
#endif
}
PYRO_INLINE NativeI dot_small(NativeI acc, NativeI w, Quad x) { return dot_offset(acc, w, x); }

#elif defined(__SSSE3__)
// Three instructions do the work of the one above: products of two bytes add up in 16 bits, two
// such sums in 32, and these are added.  Where the first sums are small, one widening serves
// several quads.
constexpr bool kHasPairs = true;

// Compilers add up integers as a tree, for which they keep all products at once: more than there
// are registers.  A sum that passes through here is complete before the next product.
PYRO_INLINE NativeI in_order(NativeI sum) {
  asm("" : "+v"(sum));
  return sum;
}

// Sums of two products, 16 bits each, for unsigned w <= 127.
PYRO_INLINE NativeI dot_pairs(NativeI w, Quad x) {
#if defined(__AVX512BW__)
  return (NativeI)_mm512_maddubs_epi16((__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVX2__)
  return (NativeI)_mm256_maddubs_epi16((__m256i)w, _mm256_set1_epi32(x));
#else
  return (NativeI)_mm_maddubs_epi16((__m128i)w, _mm_set1_epi32(x));
#endif
}
PYRO_INLINE NativeI add_pairs(NativeI a, NativeI b) {
#if defined(__AVX512BW__)
  return in_order((NativeI)_mm512_add_epi16((__m512i)a, (__m512i)b));
#elif defined(__AVX2__)
  return in_order((NativeI)_mm256_add_epi16((__m256i)a, (__m256i)b));
#else
  return in_order((NativeI)_mm_add_epi16((__m128i)a, (__m128i)b));
#endif
}
// acc + the two 16-bit sums of each lane.
PYRO_INLINE NativeI widen_pairs(NativeI acc, NativeI pairs) {
#if defined(__AVX512BW__)
  return in_order(acc + (NativeI)_mm512_madd_epi16((__m512i)pairs, _mm512_set1_epi16(1)));
#elif defined(__AVX2__)
  return in_order(acc + (NativeI)_mm256_madd_epi16((__m256i)pairs, _mm256_set1_epi16(1)));
#else
  return in_order(acc + (NativeI)_mm_madd_epi16((__m128i)pairs, _mm_set1_epi16(1)));
#endif
}
PYRO_INLINE NativeI dot_small(NativeI acc, NativeI w, Quad x) {
  return widen_pairs(acc, dot_pairs(w, x));
}

// maddubs needs one unsigned side: |w| and x with w's sign.  |w| * |x| * 2 <= 32512: no overflow.
PYRO_INLINE NativeI dot_offset(NativeI acc, NativeI w, Quad x) {
#if defined(__AVX512BW__)
  // There is no sign_epi8 of 512 bits.  Where w is 0, x may keep its sign.
  const __m512i ws = _mm512_xor_si512((__m512i)w, _mm512_set1_epi8(-128));
  const __m512i xs = _mm512_set1_epi32(x);
  const __m512i signed_xs =
      _mm512_mask_sub_epi8(xs, _mm512_movepi8_mask(ws), _mm512_setzero_si512(), xs);
  return widen_pairs(acc, (NativeI)_mm512_maddubs_epi16(_mm512_abs_epi8(ws), signed_xs));
#elif defined(__AVX2__)
  const __m256i ws = _mm256_xor_si256((__m256i)w, _mm256_set1_epi8(-128));
  const __m256i signed_xs = _mm256_sign_epi8(_mm256_set1_epi32(x), ws);
  return widen_pairs(acc, (NativeI)_mm256_maddubs_epi16(_mm256_abs_epi8(ws), signed_xs));
#else
  const __m128i ws = _mm_xor_si128((__m128i)w, _mm_set1_epi8(-128));
  const __m128i signed_xs = _mm_sign_epi8(_mm_set1_epi32(x), ws);
  return widen_pairs(acc, (NativeI)_mm_maddubs_epi16(_mm_abs_epi8(ws), signed_xs));
#endif
}

#elif defined(__aarch64__)
constexpr bool kHasPairs = false;

PYRO_INLINE NativeI dot_small(NativeI acc, NativeI w, Quad x) {
  return (NativeI)neon::dot((int32x4_t)acc, (int8x16_t)w, x);
}
PYRO_INLINE NativeI dot_offset(NativeI acc, NativeI w, Quad x) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return (NativeI)neon::dot_unsigned((int32x4_t)acc, (uint8x16_t)w, x);
#else
  return (NativeI)neon::dot((int32x4_t)acc, veorq_s8((int8x16_t)w, vdupq_n_s8(-128)), x);
#endif
}

#else
constexpr bool kHasPairs = false;

PYRO_INLINE NativeI dot_small(NativeI acc, NativeI w, Quad x) {
  for (int i = 0; i < kWidth; i++)
    for (int j = 0; j < 32; j += 8) acc[i] += int32_t(uint8_t(w[i] >> j)) * int8_t(x >> j);
  return acc;
}
PYRO_INLINE NativeI dot_offset(NativeI acc, NativeI w, Quad x) {
  for (int i = 0; i < kWidth; i++)
    for (int j = 0; j < 32; j += 8) acc[i] += int32_t(int8_t((w[i] >> j) ^ 0x80)) * int8_t(x >> j);
  return acc;
}
#endif

#if !defined(__SSSE3__) || defined(__AVX512VNNI__) || defined(__AVXVNNI__)
// Never called: there is nothing to widen.
PYRO_INLINE NativeI dot_pairs(NativeI w, Quad) { return w; }
PYRO_INLINE NativeI add_pairs(NativeI a, NativeI) { return a; }
PYRO_INLINE NativeI widen_pairs(NativeI acc, NativeI) { return acc; }
#endif
