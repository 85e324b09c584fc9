// Sixteen float32 or int32 lanes on any CPU: one 512-bit, two 256-bit or four 128-bit registers.
//
// Every kernel is written once against these lanes.  Because the lanes, the order of operations and
// the reduction trees are the same at every width, AVX2, AVX-512 and NEON give identical bits; the
// baseline of x86-64, which has no fused multiply-add, rounds twice and forms a bit group of its
// own.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include "simd_neon.h"
#endif

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kLanes = 16;
constexpr int kRegs = kLanes / kWidth;

typedef float NativeF __attribute__((vector_size(4 * kWidth)));
typedef int32_t NativeI __attribute__((vector_size(4 * kWidth)));

#define PYRO_INLINE inline __attribute__((always_inline))
#define PYRO_EACH _Pragma("GCC unroll 4") for (int r = 0; r < kRegs; r++)

struct f32x16 {
  NativeF v[kRegs];
};
struct i32x16 {
  NativeI v[kRegs];
};

// x - 0 is x for every x, so this is a broadcast and nothing else; 0 + x would turn -0 into 0, and
// the compiler has to add.
PYRO_INLINE f32x16 set1(float x) {
  f32x16 out;
  PYRO_EACH out.v[r] = x - NativeF{};
  return out;
}
PYRO_INLINE i32x16 set1i(int32_t x) {
  i32x16 out;
  PYRO_EACH out.v[r] = NativeI{} + x;
  return out;
}
// Register by register: GCC copies a struct of two registers 16 bytes at a time, and the load that
// follows then waits for the narrower stores (float32 products ran at a third of their speed).
PYRO_INLINE f32x16 load(const float *p) {
  f32x16 out;
  PYRO_EACH std::memcpy(&out.v[r], p + kWidth * r, sizeof(NativeF));
  return out;
}
PYRO_INLINE void store(float *p, f32x16 x) {
  PYRO_EACH std::memcpy(p + kWidth * r, &x.v[r], sizeof(NativeF));
}
PYRO_INLINE i32x16 loadi(const void *p) {
  i32x16 out;
  PYRO_EACH std::memcpy(&out.v[r], (const uint8_t *)p + sizeof(NativeI) * r, sizeof(NativeI));
  return out;
}

// The first n lanes of a row that may end inside the vector; the others are `fill`.
PYRO_INLINE f32x16 load_n(const float *p, int64_t n, float fill = 0.0f) {
  if (n >= kLanes) return load(p);
  float lanes[kLanes];
  for (int i = 0; i < kLanes; i++) lanes[i] = i < n ? p[i] : fill;
  return load(lanes);
}
PYRO_INLINE void store_n(float *p, f32x16 x, int64_t n) {
  if (n >= kLanes) return store(p, x);
  float lanes[kLanes];
  store(lanes, x);
  std::memcpy(p, lanes, size_t(n > 0 ? n : 0) * sizeof(float));
}

PYRO_INLINE f32x16 operator+(f32x16 a, f32x16 b) {
  PYRO_EACH a.v[r] += b.v[r];
  return a;
}
PYRO_INLINE f32x16 operator-(f32x16 a, f32x16 b) {
  PYRO_EACH a.v[r] -= b.v[r];
  return a;
}
PYRO_INLINE f32x16 operator*(f32x16 a, f32x16 b) {
  PYRO_EACH a.v[r] *= b.v[r];
  return a;
}
PYRO_INLINE f32x16 operator/(f32x16 a, f32x16 b) {
  PYRO_EACH a.v[r] /= b.v[r];
  return a;
}
PYRO_INLINE i32x16 operator+(i32x16 a, i32x16 b) {
  PYRO_EACH a.v[r] += b.v[r];
  return a;
}
PYRO_INLINE i32x16 operator&(i32x16 a, i32x16 b) {
  PYRO_EACH a.v[r] &= b.v[r];
  return a;
}
PYRO_INLINE i32x16 operator^(i32x16 a, i32x16 b) {
  PYRO_EACH a.v[r] ^= b.v[r];
  return a;
}

// max(a, b), lane by lane; a NaN in either operand may be dropped: callers test for NaN apart.
PYRO_INLINE f32x16 max(f32x16 a, f32x16 b) {
  PYRO_EACH a.v[r] = a.v[r] > b.v[r] ? a.v[r] : b.v[r];
  return a;
}
PYRO_INLINE f32x16 min(f32x16 a, f32x16 b) {
  PYRO_EACH a.v[r] = a.v[r] < b.v[r] ? a.v[r] : b.v[r];
  return a;
}
PYRO_INLINE f32x16 abs(f32x16 a) {
  PYRO_EACH a.v[r] = (NativeF)((NativeI)a.v[r] & 0x7fffffff);
  return a;
}

// a * b + c with one rounding where the CPU can, with two at the baseline of x86-64.
PYRO_INLINE NativeF fma_native(NativeF a, NativeF b, NativeF c) {
#if defined(__AVX512F__)
  return (NativeF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (NativeF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (NativeF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}
PYRO_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  PYRO_EACH c.v[r] = fma_native(a.v[r], b.v[r], c.v[r]);
  return c;
}
PYRO_INLINE float fma1(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// Round to the nearest integer, ties to even: |x| < 2^22 (the magic-number trick).
PYRO_INLINE f32x16 round_even(f32x16 x) {
  const f32x16 magic = set1(12582912.0f);
  return (x + magic) - magic;
}
PYRO_INLINE i32x16 to_int(f32x16 x) {
  i32x16 out;
  PYRO_EACH out.v[r] = __builtin_convertvector(x.v[r], NativeI);
  return out;
}
PYRO_INLINE f32x16 to_float(i32x16 x) {
  f32x16 out;
  PYRO_EACH out.v[r] = __builtin_convertvector(x.v[r], NativeF);
  return out;
}

// 0 in the lanes that hold a NaN or an infinity.
PYRO_INLINE f32x16 finite_or_zero(f32x16 x) {
  PYRO_EACH x.v[r] = x.v[r] - x.v[r] == NativeF{} ? x.v[r] : NativeF{};
  return x;
}

// Reductions over the 16 lanes by one fixed tree (8 + 8, 4 + 4, 2 + 2, 1 + 1) at every width.
#if defined(__AVX2__)
struct Halves {
  __m256 lower, upper;
};
PYRO_INLINE Halves halves_of(f32x16 x) {
  Halves out;
  std::memcpy(&out, &x, sizeof out);  // not extractf32x8: GCC 12 warns of its undefined operand
  return out;
}
PYRO_INLINE float reduce_add(f32x16 x) {
  const Halves h = halves_of(x);
  const __m256 lower = _mm256_add_ps(h.lower, h.upper);
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(lower), _mm256_extractf128_ps(lower, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}
PYRO_INLINE float reduce_max(f32x16 x) {
  const Halves h = halves_of(x);
  const __m256 lower = _mm256_max_ps(h.lower, h.upper);
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(lower), _mm256_extractf128_ps(lower, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_shuffle_ps(t, t, 1)));
}
#elif defined(__aarch64__)
PYRO_INLINE float reduce_add(f32x16 x) {
  return neon::fold_add((float32x4_t)((x.v[0] + x.v[2]) + (x.v[1] + x.v[3])));
}
PYRO_INLINE float reduce_max(f32x16 x) {
  const NativeF a = x.v[0] > x.v[2] ? x.v[0] : x.v[2], b = x.v[1] > x.v[3] ? x.v[1] : x.v[3];
  const NativeF t = a > b ? a : b;
  const float even = t[0] > t[2] ? t[0] : t[2], odd = t[1] > t[3] ? t[1] : t[3];
  return even > odd ? even : odd;
}
#else
PYRO_INLINE float reduce_add(f32x16 x) {
  float t[kLanes];
  store(t, x);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) t[i] += t[i + half];
  return t[0];
}
PYRO_INLINE float reduce_max(f32x16 x) {
  float t[kLanes];
  store(t, x);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; i++) t[i] = t[i] > t[i + half] ? t[i] : t[i + half];
  return t[0];
}
#endif
PYRO_INLINE int32_t reduce_add(i32x16 x) {
  NativeI sum = x.v[0];
#pragma GCC unroll 4
  for (int r = 1; r < kRegs; r++) sum += x.v[r];
  int32_t total = 0;
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) total += sum[i];
  return total;
}

// The low byte of each lane; the callers' values fit one.
PYRO_INLINE void store_bytes(int8_t *p, i32x16 x) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x.v[0]));
#elif defined(__aarch64__)
  vst1q_s8(
      p, neon::narrow((int32x4_t)x.v[0], (int32x4_t)x.v[1], (int32x4_t)x.v[2], (int32x4_t)x.v[3]));
#else
  int32_t t[kLanes];
  std::memcpy(t, &x, sizeof x);
  for (int i = 0; i < kLanes; i++) p[i] = int8_t(t[i]);
#endif
}

// 2^n and e^r for x = n ln2 + r, |r| <= ln2 / 2 (Cody and Waite 1980), by the minimax polynomial of
// Moshier's Cephes expf.
PYRO_INLINE f32x16 exp_parts(f32x16 x, i32x16 &n) {
  f32x16 whole = round_even(x * set1(1.44269504088896341f));
  f32x16 r = fma(whole, set1(-0.693359375f), x);
  r = fma(whole, set1(2.12194440e-4f), r);
  f32x16 p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  n = to_int(whole);
  return fma(p, r * r, r) + set1(1.0f);
}

// exp(x), at most 2 ulp for x in [-87.3, 88.7]; 0 below, inf above, NaN stays NaN.
PYRO_INLINE f32x16 exp(f32x16 x) {
  const f32x16 lo = set1(-87.33654f), hi = set1(88.72283f);
  i32x16 n;
  f32x16 out = exp_parts(min(max(x, lo), hi), n);
  PYRO_EACH {
    // 2^n in two factors: n = 128 has no float of its own.
    NativeI half = n.v[r] >> 1, rest = n.v[r] - half;
    NativeF y = out.v[r] * (NativeF)((half + 127) << 23) * (NativeF)((rest + 127) << 23);
    y = x.v[r] < lo.v[r] ? NativeF{} : y;
    y = x.v[r] > hi.v[r] ? NativeF{} + INFINITY : y;
    out.v[r] = x.v[r] == x.v[r] ? y : x.v[r];
  }
  return out;
}

// exp(x) for x <= 0 or NaN, with half the operations: what a softmax needs.
PYRO_INLINE f32x16 exp_nonpositive(f32x16 x) {
  const f32x16 lo = set1(-87.33654f);
  f32x16 clamped;
  PYRO_EACH clamped.v[r] = x.v[r] < lo.v[r] ? lo.v[r] : x.v[r];  // a NaN passes
  i32x16 n;
  f32x16 out = exp_parts(clamped, n);
  PYRO_EACH {
    NativeF y = out.v[r] * (NativeF)((n.v[r] + 127) << 23);
    out.v[r] = x.v[r] < lo.v[r] ? NativeF{} : y;
  }
  return out;
}

// ---- 16-bit floats ----------------------------------------------------------------------------

PYRO_INLINE float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#elif defined(__aarch64__)
  return neon::half_to_float(h);
#else
  uint32_t sign = uint32_t(h & 0x8000) << 16, bits = uint32_t(h & 0x7fff) << 13;
  float f;
  std::memcpy(&f, &bits, 4);
  f *= 5.192296858534828e33f;  // 2^112: rebias the exponent; denormals come out right too
  std::memcpy(&bits, &f, 4);
  if ((h & 0x7c00) == 0x7c00) bits = 0x7f800000u | (uint32_t(h & 0x3ff) << 13);
  bits |= sign;
  std::memcpy(&f, &bits, 4);
  return f;
#endif
}

// Round to nearest even, as F16C does.
PYRO_INLINE uint16_t float_to_half(float f) {
#if defined(__F16C__)
  return (uint16_t)_cvtss_sh(f, 0);
#elif defined(__aarch64__)
  return neon::float_to_half(f);
#else
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (bits >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to 65536 or more: infinity
  if (bits < 0x38800000) {                                 // a half denormal: let the FPU round
    float a;
    std::memcpy(&a, &bits, 4);
    a += 0.5f;
    std::memcpy(&bits, &a, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  bits += 0xc8000fff + ((bits >> 13) & 1);
  return uint16_t(sign | (bits >> 13));
#endif
}

// 16-bit integers, zero-extended to a lane each.
PYRO_INLINE NativeI load_u16_native(const uint16_t *p) {
#if defined(__AVX512F__)
  return (NativeI)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__AVX2__)
  return (NativeI)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__SSE4_1__)
  return (NativeI)_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i *)p));
#elif defined(__aarch64__)
  return (NativeI)vmovl_u16(vld1_u16(p));
#else
  NativeI out;
  for (int i = 0; i < kWidth; i++) out[i] = p[i];
  return out;
#endif
}

// Part r of 16 half floats.
PYRO_INLINE NativeF load_half_native(const uint16_t *p, [[maybe_unused]] int r) {
#if defined(__AVX512F__)
  return (NativeF)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
  return (NativeF)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8 * r)));
#elif defined(__aarch64__)
  return (NativeF)neon::load_half(p + kWidth * r);
#else  // half_to_float, lane by lane
  const NativeI half = load_u16_native(p + kWidth * r), payload = (half & 0x7fff) << 13;
  const NativeI finite = (NativeI)((NativeF)payload * 5.192296858534828e33f);
  const NativeI special = (half & 0x7c00) == 0x7c00;
  const NativeI bits = special ? payload | 0x7f800000 : finite;
  return (NativeF)(bits | (half & 0x8000) << 16);
#endif
}
PYRO_INLINE f32x16 load_half(const uint16_t *p) {
  f32x16 out;
  PYRO_EACH out.v[r] = load_half_native(p, r);
  return out;
}
PYRO_INLINE void store_half(uint16_t *p, f32x16 x) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)x.v[0], 0));
#elif defined(__aarch64__)
  PYRO_EACH neon::store_half(p + kWidth * r, (float32x4_t)x.v[r]);
#else
  float t[kLanes];
  store(t, x);
  for (int i = 0; i < kLanes; i++) p[i] = float_to_half(t[i]);
#endif
}

PYRO_INLINE float bfloat_to_float(uint16_t b) {
  uint32_t bits = uint32_t(b) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
PYRO_INLINE f32x16 load_bfloat(const uint16_t *p) {
  f32x16 out;
  PYRO_EACH out.v[r] = (NativeF)(load_u16_native(p + kWidth * r) << 16);
  return out;
}
