// What sampling needs beyond native/simd.h: comparisons as bit masks, compressing stores, and the
// weight 2^y of a token.  Sixteen lanes at every width, so AVX2 and AVX-512 give the same bits.
#pragma once

#include "native/simd.h"

namespace sampling {

PYRO_INLINE void store_ints(int32_t *p, i32x16 x) {
  PYRO_EACH std::memcpy(p + r * kWidth, &x.v[r], sizeof x.v[r]);
}

// Bit i of a Mask stands for lane i.
using Mask = uint32_t;
constexpr Mask kAllLanes = 0xffff;

PYRO_INLINE Mask lanes_below(int64_t n) { return n >= kLanes ? kAllLanes : (Mask(1) << n) - 1; }
PYRO_INLINE int count(Mask m) { return __builtin_popcount(m); }

// The sign bits of lanes that are all ones or all zeros.
PYRO_INLINE Mask bits_of(const NativeI (&lanes)[kRegs]) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)lanes[0]);
#elif defined(__AVX2__)
  return Mask(_mm256_movemask_ps((__m256)lanes[0])) | Mask(_mm256_movemask_ps((__m256)lanes[1]))
                                                          << 8;
#elif defined(__SSE2__)
  Mask m = 0;
  PYRO_EACH m |= Mask(_mm_movemask_ps((__m128)lanes[r])) << (r * kWidth);
  return m;
#elif defined(__aarch64__)
  return neon::bits_of(neon::narrow((int32x4_t)lanes[0], (int32x4_t)lanes[1], (int32x4_t)lanes[2],
                                    (int32x4_t)lanes[3]));
#else
  Mask m = 0;
  for (int r = 0; r < kRegs; r++)
    for (int i = 0; i < kWidth; i++) m |= Mask(lanes[r][i] < 0) << (r * kWidth + i);
  return m;
#endif
}

PYRO_INLINE Mask at_least(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a.v[0], (__m512)b.v[0], _CMP_GE_OQ);
#else
  NativeI t[kRegs];
  PYRO_EACH t[r] = a.v[r] >= b.v[r];
  return bits_of(t);
#endif
}
PYRO_INLINE Mask above(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a.v[0], (__m512)b.v[0], _CMP_GT_OQ);
#else
  NativeI t[kRegs];
  PYRO_EACH t[r] = a.v[r] > b.v[r];
  return bits_of(t);
#endif
}
PYRO_INLINE Mask equal(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a.v[0], (__m512)b.v[0], _CMP_EQ_OQ);
#else
  NativeI t[kRegs];
  PYRO_EACH t[r] = a.v[r] == b.v[r];
  return bits_of(t);
#endif
}
PYRO_INLINE Mask equal(i32x16 a, i32x16 b) {
#if defined(__AVX512F__)
  return _mm512_cmpeq_epi32_mask((__m512i)a.v[0], (__m512i)b.v[0]);
#else
  NativeI t[kRegs];
  PYRO_EACH t[r] = a.v[r] == b.v[r];
  return bits_of(t);
#endif
}
// Remembers whether any value was NaN.
struct NanFlag {
#if defined(__AVX512F__)
  __mmask16 seen = 0;
  PYRO_INLINE void look(f32x16 a, f32x16 b) {
    seen |= _mm512_cmp_ps_mask((__m512)a.v[0], (__m512)b.v[0], _CMP_UNORD_Q);
  }
  PYRO_INLINE bool any() const { return seen != 0; }
#else
  NativeI seen = {};
  PYRO_INLINE void look(f32x16 a, f32x16 b) {
    PYRO_EACH seen |= (NativeI)(a.v[r] != a.v[r]) | (NativeI)(b.v[r] != b.v[r]);
  }
  PYRO_INLINE bool any() const {
    int32_t any = 0;
    for (int i = 0; i < kWidth; i++) any |= seen[i];
    return any != 0;
  }
#endif
};

// max without the care for NaN that a comparison and a blend would take: one instruction.
PYRO_INLINE f32x16 quick_max(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  a.v[0] = (NativeF)_mm512_mask_max_ps((__m512)a.v[0], 0xffff, (__m512)a.v[0],
                                       (__m512)b.v[0]);  // GCC 12 warns of the unmasked one
  return a;
#elif defined(__AVX2__)
  PYRO_EACH a.v[r] = (NativeF)_mm256_max_ps((__m256)a.v[r], (__m256)b.v[r]);
  return a;
#elif defined(__SSE2__)
  PYRO_EACH a.v[r] = (NativeF)_mm_max_ps((__m128)a.v[r], (__m128)b.v[r]);
  return a;
#else
  return max(a, b);
#endif
}

PYRO_INLINE f32x16 quick_min(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  a.v[0] = (NativeF)_mm512_mask_min_ps((__m512)a.v[0], 0xffff, (__m512)a.v[0], (__m512)b.v[0]);
  return a;
#elif defined(__AVX2__)
  PYRO_EACH a.v[r] = (NativeF)_mm256_min_ps((__m256)a.v[r], (__m256)b.v[r]);
  return a;
#elif defined(__SSE2__)
  PYRO_EACH a.v[r] = (NativeF)_mm_min_ps((__m128)a.v[r], (__m128)b.v[r]);
  return a;
#else
  return min(a, b);
#endif
}

// x in the lanes of m, y in the others.
PYRO_INLINE f32x16 blend(Mask m, f32x16 x, f32x16 y) {
#if defined(__AVX512F__)
  x.v[0] = (NativeF)_mm512_mask_mov_ps((__m512)y.v[0], __mmask16(m), (__m512)x.v[0]);
#else
  NativeI bit;
  for (int i = 0; i < kWidth; i++) bit[i] = 1 << i;
  PYRO_EACH {
    NativeI lane = (NativeI{} + int32_t(m >> (r * kWidth))) & bit;
    x.v[r] = lane != 0 ? x.v[r] : y.v[r];
  }
#endif
  return x;
}

// x where a >= b, else 0.
PYRO_INLINE f32x16 where_at_least(f32x16 a, f32x16 b, f32x16 x) {
#if defined(__AVX512F__)
  x.v[0] = (NativeF)_mm512_maskz_mov_ps(__mmask16(at_least(a, b)), (__m512)x.v[0]);
#else
  PYRO_EACH x.v[r] = (NativeF)((NativeI)(a.v[r] >= b.v[r]) & (NativeI)x.v[r]);
#endif
  return x;
}

#if (defined(__SSSE3__) && !defined(__AVX2__)) || defined(__aarch64__)
// For each mask of four lanes the bytes of those that are in it, in order.
struct CloseTogether {
  alignas(16) uint8_t bytes[16][16] = {};
  constexpr CloseTogether() {
    for (int m = 0; m < 16; m++)
      for (int lane = 0, at = 0; lane < 4; lane++)
        if (m >> lane & 1)
          for (int i = 0; i < 4; i++) bytes[m][at++] = uint8_t(4 * lane + i);
  }
};
constexpr CloseTogether kCloseTogether;
#endif

// Writes the lanes of m, close together, to p; up to 16 lanes from p on may be overwritten.
PYRO_INLINE void compress(void *p, i32x16 x, Mask m) {
#if defined(__AVX512F__)
  // Not the compressing store: it is microcode on Zen 4, over 100 cycles.
  _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(__mmask16(m), (__m512i)x.v[0]));
#elif defined(__AVX2__)
  int32_t *to = static_cast<int32_t *>(p);
  PYRO_EACH {
    uint64_t half = (m >> (8 * r)) & 0xff;
    uint64_t bytes = _pdep_u64(half, 0x0101010101010101u) * 0xff;
    uint64_t order = _pext_u64(0x0706050403020100u, bytes);
    __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(order)));
    _mm256_storeu_si256((__m256i *)to, _mm256_permutevar8x32_epi32((__m256i)x.v[r], lanes));
    to += __builtin_popcountll(half);
  }
#elif defined(__SSSE3__)
  char *to = static_cast<char *>(p);
  PYRO_EACH {
    Mask quarter = (m >> (r * kWidth)) & 0xf;
    __m128i order = _mm_load_si128((const __m128i *)kCloseTogether.bytes[quarter]);
    _mm_storeu_si128((__m128i *)to, _mm_shuffle_epi8((__m128i)x.v[r], order));
    to += 4 * count(quarter);
  }
#elif defined(__aarch64__)
  uint8_t *to = static_cast<uint8_t *>(p);
  PYRO_EACH {
    const Mask quarter = (m >> (r * kWidth)) & 0xf;
    const uint8x16_t order = vld1q_u8(kCloseTogether.bytes[quarter]);
    vst1q_u8(to, vqtbl1q_u8((uint8x16_t)x.v[r], order));
    to += 4 * count(quarter);
  }
#else
  int32_t lanes[kLanes], *to = static_cast<int32_t *>(p);
  std::memcpy(lanes, &x, sizeof lanes);
  for (; m; m &= m - 1) *to++ = lanes[__builtin_ctz(m)];
#endif
}
PYRO_INLINE void compress(float *p, f32x16 x, Mask m) {
  i32x16 bits;
  std::memcpy(&bits, &x, sizeof bits);
  compress(static_cast<void *>(p), bits, m);
}

PYRO_INLINE i32x16 lane_ids(int32_t first) {
  static constexpr int32_t kIds[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return loadi(kIds) + set1i(first);
}

PYRO_INLINE f32x16 floor(f32x16 x) {
#if defined(__AVX512F__)
  x.v[0] = (NativeF)_mm512_roundscale_ps((__m512)x.v[0], 0x09);
#elif defined(__AVX2__)
  PYRO_EACH x.v[r] = (NativeF)_mm256_floor_ps((__m256)x.v[r]);
#elif defined(__SSE4_1__)
  PYRO_EACH x.v[r] = (NativeF)_mm_floor_ps((__m128)x.v[r]);
#elif defined(__aarch64__)
  PYRO_EACH x.v[r] = (NativeF)vrndmq_f32((float32x4_t)x.v[r]);
#else
  for (int r = 0; r < kRegs; r++)
    for (int i = 0; i < kWidth; i++) x.v[r][i] = std::floor(x.v[r][i]);
#endif
  return x;
}

constexpr float kLeastExponent = -125.0f;  // below it a weight is 0

// 2^y for kLeastExponent <= y <= 0: 2^n times a polynomial in f, y = n + f, n = floor(y).  Its
// coefficients are the minimax ones on [0, 1] (Remez's algorithm, then steps of single places).
// Relative error 1.5e-7; exactly 1 at 0.
PYRO_INLINE f32x16 plain_weight(f32x16 y) {
  const f32x16 n = floor(y), f = y - n;
  f32x16 p = set1(1.86713005e-3f);
  p = fma(p, f, set1(9.01703164e-3f));
  p = fma(p, f, set1(5.57999127e-2f));
  p = fma(p, f, set1(2.40164474e-1f));
  p = fma(p, f, set1(6.93151295e-1f));
  p = fma(p, f, set1(1.0f));
#if defined(__AVX512F__)
  // Exact, like the integer sum.  (vreduceps for f is not: it rounds the difference down.)
  p.v[0] = (NativeF)_mm512_scalef_ps((__m512)p.v[0], (__m512)n.v[0]);
#else
  // Unsigned: lanes below kLeastExponent, which nobody will look at, may wrap.
  typedef uint32_t NativeU __attribute__((vector_size(4 * kWidth)));
  const i32x16 exponent = to_int(n);
  PYRO_EACH p.v[r] = (NativeF)((NativeU)p.v[r] + ((NativeU)exponent.v[r] << 23));
#endif
  return p;
}

// 2^y for y <= 0: 0 below kLeastExponent (and at -inf).
PYRO_INLINE f32x16 weight(f32x16 y) {
  return where_at_least(y, set1(kLeastExponent), plain_weight(y));
}

}  // namespace sampling
