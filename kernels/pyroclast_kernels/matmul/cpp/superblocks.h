// The K formats: super-blocks of 256 columns whose header has one or two float16 numbers for each
// of 16 rows and then small integers, 16 rows side by side, that multiply them.
//
//   q4_k, q5_k  d, dmin; 8 scales; 8 minimums       one of each per block of 32 columns
//   q6_k, q3_k  d; 16 signed scales                 one per 16 columns
//   q2_k        d, dmin; 16 bytes scale | min << 4  one per 16 columns
//
// scale = d * integer and dmin * integer are exact in float32.
#pragma once

#include "packed.h"

// Part r of 16 bytes, one for each row, signed or not.  (GCC 12 goes through scalar registers for
// the same __builtin_convertvector: down to a fifth of the speed.)
template <bool Signed>
PYRO_INLINE NativeI load_small(const uint8_t *p, int r) {
  p += kWidth * r;
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128((const __m128i *)p);
  return (NativeI)(Signed ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64((const __m128i *)p);
  return (NativeI)(Signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
#elif defined(__SSE4_1__)
  const __m128i bytes = _mm_loadu_si32(p);
  return (NativeI)(Signed ? _mm_cvtepi8_epi32(bytes) : _mm_cvtepu8_epi32(bytes));
#elif defined(__aarch64__)
  return (NativeI)neon::load_bytes<Signed>(p);
#else
  NativeI out;
  for (int i = 0; i < kWidth; i++) out[i] = Signed ? int8_t(p[i]) : p[i];
  return out;
#endif
}
PYRO_INLINE NativeF to_float_native(NativeI x) { return __builtin_convertvector(x, NativeF); }

// In all of them load_scales gives part r of the scales and minimums of 16 rows for half `half` of
// block b = 0..7 of the super-block.
template <class Codes>
struct ScalesAndMinimums : BlockLayout<Codes, 1, 8, 320> {
  static constexpr bool kHasMin = true;
  static constexpr int kOffset = 0;
  static PYRO_INLINE int32_t start(const Q8Block &, int) { return 0; }
  static PYRO_INLINE void load_scales(const uint8_t *header, int b, int, int r, NativeF &scale,
                                      NativeF &minimum) {
    const uint16_t *d = (const uint16_t *)header;
    const uint8_t *small = header + 64 + kLanes * b;
    scale = load_half_native(d, r) * to_float_native(load_small<false>(small, r));
    minimum = -load_half_native(d + kLanes, r) *
              to_float_native(load_small<false>(small + 8 * kLanes, r));
  }
};

// The offset of the codes starts the integer sum of each half: Times4 is a fourth of it.
template <class Codes, int Times4>
struct SignedScales : BlockLayout<Codes, 2, 8, 288> {
  static constexpr bool kHasMin = false;
  static constexpr int kOffset = 4 * Times4;
  static PYRO_INLINE int32_t start(const Q8Block &x, int half) {
    return Times4 * x.minus_4_half_sum[half];
  }
  static PYRO_INLINE void load_scales(const uint8_t *header, int b, int half, int r, NativeF &scale,
                                      NativeF &) {
    const uint8_t *small = header + 32 + kLanes * (2 * b + half);
    scale =
        load_half_native((const uint16_t *)header, r) * to_float_native(load_small<true>(small, r));
  }
};

struct Q4_K : ScalesAndMinimums<Codes4> {};
struct Q5_K : ScalesAndMinimums<Codes5> {};
struct Q3_K : SignedScales<Codes3, 1> {};
struct Q6_K : SignedScales<Codes6, 8> {};

struct Q2_K : BlockLayout<Codes2, 2, 8, 320> {
  static constexpr bool kHasMin = true;
  static constexpr int kOffset = 0;
  static PYRO_INLINE int32_t start(const Q8Block &, int) { return 0; }
  static PYRO_INLINE void load_scales(const uint8_t *header, int b, int half, int r, NativeF &scale,
                                      NativeF &minimum) {
    const uint16_t *d = (const uint16_t *)header;
    const NativeI both = load_small<false>(header + 64 + kLanes * (2 * b + half), r);
    scale = load_half_native(d, r) * to_float_native(both & 15);
    minimum = -load_half_native(d + kLanes, r) * to_float_native(both >> 4);
  }
};
