// Activations to 8 bits, 32 at a time: the epilogue of norm, glu and attention.
#pragma once

#include <cfloat>
#include <type_traits>

#include "native/abi.h"
#include "native/simd.h"

// The largest |x| of 32; infinite or NaN if one of them is.  Compared as integers, among which a
// NaN is above an infinity and that above every number.
PYRO_INLINE float largest_of(const float *x) {
  const f32x16 a = load(x), b = load(x + kLanes);
  NativeI most = NativeI{};
  PYRO_EACH {
    const NativeI y = (NativeI)a.v[r] & 0x7fffffff, z = (NativeI)b.v[r] & 0x7fffffff;
    const NativeI larger = y > z ? y : z;
    most = most > larger ? most : larger;
  }
#if defined(__AVX2__)
#if defined(__AVX512F__)
  const __m256i v = _mm256_max_epi32(_mm512_castsi512_si256((__m512i)most),
                                     _mm512_extracti64x4_epi64((__m512i)most, 1));
#else
  const __m256i v = (__m256i)most;
#endif
  __m128i t = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1))));
#elif defined(__aarch64__)
  return vget_lane_f32(vreinterpret_f32_s32(vdup_n_s32(vmaxvq_s32((int32x4_t)most))), 0);
#else
  int32_t bits = 0;
  for (int i = 0; i < kWidth; i++) bits = most[i] > bits ? most[i] : bits;
  float largest;
  std::memcpy(&largest, &bits, 4);
  return largest;
#endif
}

// A block of 32 whole numbers of at most 127, and its sums.  (Adding up lanes one by one, and
// storing sums one by one, cost more than everything else that quantizing does.)
#if defined(__AVX2__)
PYRO_INLINE __m256i to_bytes(f32x16 a, f32x16 b) {
  const i32x16 x = to_int(a), y = to_int(b);
#if defined(__AVX512F__)
  return _mm256_set_m128i(_mm512_cvtepi32_epi8((__m512i)y.v[0]),
                          _mm512_cvtepi32_epi8((__m512i)x.v[0]));
#else
  const __m256i low = _mm256_packs_epi32((__m256i)x.v[0], (__m256i)x.v[1]);
  const __m256i high = _mm256_packs_epi32((__m256i)y.v[0], (__m256i)y.v[1]);
  // Packing works on halves of a register: it leaves four values of each operand in turn.
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                     _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#endif
}

PYRO_INLINE void store_block(Q8Block &out, f32x16 a, f32x16 b, float scale) {
  const __m256i bytes = to_bytes(a, b), offset = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
  const __m256i eights = _mm256_sad_epu8(offset, _mm256_setzero_si256());
  const __m256i sums = _mm256_add_epi32(eights, _mm256_shuffle_epi32(eights, 0x4e));
  const __m128i both =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  // The sums of the first and of the last 16; the sum of all, twice.
  const __m128i halves = _mm_sub_epi32(both, _mm_setr_epi32(16 * 128, 16 * 128, 0, 0));
  const __m128i total = _mm_add_epi32(halves, _mm_shuffle_epi32(halves, 0xe1));
  const __m128i zero = _mm_setzero_si128(), by_8_and_128 = _mm_setr_epi32(3, 7, 0, 0);
  const __m128 scales = _mm_set1_ps(scale);
  const __m128 scaled_total = _mm_mul_ps(_mm_cvtepi32_ps(total), scales);
  const __m128 scaled_halves = _mm_mul_ps(_mm_cvtepi32_ps(halves), scales);
  const __m128i head = _mm_unpacklo_epi64(_mm_castps_si128(_mm_unpacklo_ps(scales, scaled_total)),
                                          _mm_sub_epi32(zero, _mm_sllv_epi32(total, by_8_and_128)));
  const __m128i tail = _mm_unpacklo_epi64(_mm_castps_si128(scaled_halves),
                                          _mm_sub_epi32(zero, _mm_slli_epi32(halves, 2)));
  std::memcpy(&out.scale, &head, sizeof head);
  std::memcpy(out.values, &bytes, sizeof bytes);
  std::memcpy(out.half_scaled, &tail, sizeof tail);
}
#else
// The sum of 16 bytes.  (Adding up lanes cost more than everything else that quantizing does.)
PYRO_INLINE int32_t sum_bytes(const int8_t *p) {
#if defined(__x86_64__)
  const __m128i x = _mm_xor_si128(_mm_loadu_si128((const __m128i *)p), _mm_set1_epi8(-128));
  const __m128i sums = _mm_sad_epu8(x, _mm_setzero_si128());
  return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128;
#elif defined(__aarch64__)
  return vaddlvq_s8(vld1q_s8(p));
#else
  int32_t sum = 0;
  for (int i = 0; i < 16; i++) sum += p[i];
  return sum;
#endif
}

PYRO_INLINE void store_block(Q8Block &out, f32x16 a, f32x16 b, float scale) {
  store_bytes(out.values, to_int(a));
  store_bytes(out.values + kLanes, to_int(b));
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
#endif

__attribute__((cold)) inline void quantize_poisoned(const float *x, Q8Block &out);

// ---- the scale ---------------------------------------------------------------------------------
//
// max|x| / level, for the one of these levels that loses least.  Why, and what a loss is, stands in
// q8_blocks.py.  Losses are sums of whole numbers: every variant takes the same level.

constexpr int kLevels[] = {127, 125, 123, 121, 119, 117};
constexpr int kNLevels = sizeof kLevels / sizeof *kLevels;
constexpr float kMostInverse = 0x1p110f;  // 256 times as much is finite

// What of 15 bits turns 256ths of a step of the first level into those of another one.
constexpr int word_factor(int level) { return ((level << 16) / kLevels[0] + 1) / 2; }

// 32 values in 256ths of a step, as int16 in any order.  At another level, what a whole number of
// steps leaves is the low byte, as a signed one.
#if defined(__AVX512BW__)
using Words = __m512i;
PYRO_INLINE Words to_words(f32x16 a, f32x16 b) {
  return _mm512_packs_epi32(_mm512_cvtps_epi32((__m512)a.v[0]), _mm512_cvtps_epi32((__m512)b.v[0]));
}
PYRO_INLINE __m256i squares(Words x, int factor) {
  const __m512i at_level = factor ? _mm512_mulhrs_epi16(x, _mm512_set1_epi16(int16_t(factor))) : x;
  const __m512i rest = _mm512_srai_epi16(_mm512_slli_epi16(at_level, 8), 8);
  const __m512i sums = _mm512_madd_epi16(rest, rest);
  return _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
}
#elif defined(__AVX2__)
struct Words {
  __m256i a, b;
};
PYRO_INLINE __m256i to_words(f32x16 x) {
  return _mm256_packs_epi32(_mm256_cvtps_epi32((__m256)x.v[0]), _mm256_cvtps_epi32((__m256)x.v[1]));
}
PYRO_INLINE Words to_words(f32x16 a, f32x16 b) { return {to_words(a), to_words(b)}; }
PYRO_INLINE __m256i squares(__m256i x, int factor) {
  const __m256i at_level = factor ? _mm256_mulhrs_epi16(x, _mm256_set1_epi16(int16_t(factor))) : x;
  const __m256i rest = _mm256_srai_epi16(_mm256_slli_epi16(at_level, 8), 8);
  return _mm256_madd_epi16(rest, rest);
}
PYRO_INLINE __m256i squares(Words x, int factor) {
  return _mm256_add_epi32(squares(x.a, factor), squares(x.b, factor));
}
#else
struct Words {
  i32x16 a, b;
};
PYRO_INLINE Words to_words(f32x16 a, f32x16 b) {
  return {to_int(round_even(a)), to_int(round_even(b))};
}
PYRO_INLINE i32x16 squares(i32x16 x, int factor) {
  PYRO_EACH {
    const NativeI at_level = factor ? (x.v[r] * factor + (1 << 14)) >> 15 : x.v[r];
    const NativeI rest = (at_level << 24) >> 24;
    x.v[r] = rest * rest;
  }
  return x;
}
#endif

// The losses of N blocks at one level, the sum of 32 squares of each.
template <int N>
PYRO_INLINE void sum_squares(const Words *words, int factor, float *out) {
#if defined(__AVX2__)
  if constexpr (N == 8) {  // the lanes of 8 registers by pairs: a third of the work
    __m256i sums[N];
    for (int b = 0; b < N; b++) sums[b] = squares(words[b], factor);
    for (int n = N; n > 2; n /= 2)
      for (int b = 0; b < n / 2; b++) sums[b] = _mm256_hadd_epi32(sums[2 * b], sums[2 * b + 1]);
    const __m256i all = _mm256_add_epi32(_mm256_permute2x128_si256(sums[0], sums[1], 0x20),
                                         _mm256_permute2x128_si256(sums[0], sums[1], 0x31));
    _mm256_storeu_ps(out, _mm256_cvtepi32_ps(all));
    return;
  }
  for (int b = 0; b < N; b++) {
    const __m256i sums = squares(words[b], factor);
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    out[b] = float(_mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1))));
  }
#else
  for (int b = 0; b < N; b++)
    out[b] = float(reduce_add(squares(words[b].a, factor) + squares(words[b].b, factor)));
#endif
}

// One number of each of N blocks, which all are worked on at once.
typedef float Eight __attribute__((vector_size(32)));
template <int N>
using Numbers = std::conditional_t<N == 8, Eight, float>;

// The scale of each block, and its inverse; the largest values are finite.
template <int N>
PYRO_INLINE void choose_scales(const float *x, const float *largest, float *inverse, float *scale) {
  static_assert(N == 1 || N == 8, "a number or a register of them");
  using Float = Numbers<N>;
  Float top, level = Float{} + float(kLevels[0]), least;
  std::memcpy(&top, largest, sizeof top);
  const Float quotient = level / top, most = Float{} + kMostInverse;
  const Float in_256ths = (quotient < most ? quotient : most) * 256.0f;
  float factors[N], losses[N];
  std::memcpy(factors, &in_256ths, sizeof factors);
  Words words[N];
  for (int b = 0; b < N; b++) {
    const f32x16 factor = set1(factors[b]);
    words[b] = to_words(load(x + 32 * b) * factor, load(x + 32 * b + kLanes) * factor);
  }
  for (int i = 0; i < kNLevels; i++) {
    sum_squares<N>(words, i ? word_factor(kLevels[i]) : 0, losses);
    Float loss;
    std::memcpy(&loss, losses, sizeof loss);
    // In steps of one size.
    loss *= float(kLevels[0] * kLevels[0]) / float(kLevels[i] * kLevels[i]);
    if (i == 0) {
      least = loss;
    } else {
      level = loss < least ? Float{} + float(kLevels[i]) : level;
      least = loss < least ? loss : least;
    }
  }
  const Float chosen = top / level, factor = level / top;
  const Float finite =
      factor <= FLT_MAX ? factor : Float{};  // 0 of zeros, and of what is too small
  std::memcpy(scale, &chosen, sizeof chosen);
  std::memcpy(inverse, &finite, sizeof finite);
}

// N blocks: values = round(x / scale) to nearest even.  One step of all blocks after the other:
// block by block, each waits 70 cycles for its own maximum, quotient and sums, and no CPU looks far
// enough ahead to hide that (Zen 4: 12 ns a block, 7 so, with one level).
template <int N>
PYRO_INLINE void quantize_blocks(const float *x, Q8Block *out) {
  float largest[N], inverse[N], scale[N];
  bool finite = true;
  for (int b = 0; b < N; b++) {
    largest[b] = largest_of(x + 32 * b);
    finite &= largest[b] <= FLT_MAX;
  }
  if (!finite) {
    for (int b = 0; b < N; b++)
      if constexpr (N > 1)
        quantize_blocks<1>(x + 32 * b, out + b);
      else
        quantize_poisoned(x, *out);
    return;
  }
  choose_scales<N>(x, largest, inverse, scale);
  for (int b = 0; b < N; b++) {
    const f32x16 factor = set1(inverse[b]);
    store_block(out[b], round_even(load(x + 32 * b) * factor),
                round_even(load(x + 32 * b + kLanes) * factor), scale[b]);
  }
}

// A block that holds a NaN or an infinity: its scale is NaN, so that it reaches the logits and is
// noticed there.
__attribute__((cold)) inline void quantize_poisoned(const float *x, Q8Block &out) {
  float y[32];
  for (int i = 0; i < 32; i += kLanes) store(y + i, finite_or_zero(load(x + i)));
  quantize_blocks<1>(y, &out);
  out.scale = out.sum_scaled = out.half_scaled[0] = out.half_scaled[1] = NAN;
}

PYRO_INLINE void quantize_block(const float *x, Q8Block &out) { quantize_blocks<1>(x, &out); }

PYRO_INLINE void quantize_row(const float *x, int64_t n, Q8Block *out) {
  constexpr int64_t kRun = 8;
  int64_t b = 0;
  for (; b + kRun <= n / 32; b += kRun) quantize_blocks<kRun>(x + 32 * b, out + b);
  for (; b < n / 32; b++) quantize_block(x + 32 * b, out[b]);
}
