// Activations to 8 bits, 32 at a time: the epilogue of norm, swiglu and attention.
#pragma once

#include "../native/abi.h"
#include "../native/simd.h"

// The bits of the largest |x| of 32, as an integer: above kLargestFinite if one is NaN or infinite.
constexpr int32_t kLargestFinite = 0x7f7fffff;
PYRO_INLINE int32_t largest_bits(f32x16 a, f32x16 b) {
  NativeI most = NativeI{};
  PYRO_EACH {
    const NativeI x = (NativeI)a.v[r] & 0x7fffffff, y = (NativeI)b.v[r] & 0x7fffffff;
    const NativeI larger = x > y ? x : y;
    most = most > larger ? most : larger;
  }
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)most);
#elif defined(__AVX2__)
  const __m256i v = (__m256i)most;
  __m128i t = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
#else
  int32_t largest = 0;
  for (int i = 0; i < kWidth; i++) largest = most[i] > largest ? most[i] : largest;
  return largest;
#endif
}

// The sum of 16 bytes.  (Adding up lanes cost more than everything else that quantizing does.)
PYRO_INLINE int32_t sum_bytes(const int8_t *p) {
#if defined(__x86_64__)
  const __m128i x = _mm_xor_si128(_mm_loadu_si128((const __m128i *)p), _mm_set1_epi8(-128));
  const __m128i sums = _mm_sad_epu8(x, _mm_setzero_si128());
  return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
#else
  int32_t sum = 0;
  for (int i = 0; i < 16; i++) sum += p[i];
  return sum;
#endif
}

// values[i] = round(x[i] / scale) to nearest even, scale = max|x| / 127.  A NaN or an infinity
// anywhere in the block makes the scale NaN, so that it reaches the logits and is noticed there.
PYRO_INLINE void quantize_block(const float *x, Q8Block &out) {
  f32x16 a = load(x), b = load(x + kLanes);
  int32_t bits = largest_bits(a, b);
  const bool finite = bits <= kLargestFinite;
  if (!finite) {
    a = finite_or_zero(a), b = finite_or_zero(b);
    bits = largest_bits(a, b);
  }
  float largest;
  std::memcpy(&largest, &bits, 4);
  const float scale = finite ? largest / 127.0f : NAN;
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  store_bytes(out.values, to_int(round_even(a * set1(inverse))));
  store_bytes(out.values + kLanes, to_int(round_even(b * set1(inverse))));
  const int32_t first = sum_bytes(out.values), last = sum_bytes(out.values + kLanes);
  const int32_t sum = first + last;
  out.scale = scale;
  out.sum_scaled = scale * float(sum);
  out.minus_8_sum = -8 * sum;
  out.minus_128_sum = -128 * sum;
  out.half_scaled[0] = scale * float(first);
  out.half_scaled[1] = scale * float(last);
  out.minus_4_half_sum[0] = -4 * first;
  out.minus_4_half_sum[1] = -4 * last;
}

PYRO_INLINE void quantize_row(const float *x, int64_t n, Q8Block *out) {
  for (int64_t b = 0; b < n / 32; b++) quantize_block(x + 32 * b, out[b]);
}
