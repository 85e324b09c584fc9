// What the cells of the cache are to the inner loops of attention: vectors of 16 lanes that meet a
// broadcast "unit", one query value or one probability, or two of either.
//
//   FloatCells, HalfCells   one fused multiply-add a step
//   PairCells               two bfloat16 side by side: a dot product of pairs, float32 sums
//   ByteCells               two int8 side by side, units of two int16: exact int32 sums
//
// vdpbf16ps adds the odd product first, then the even one, rounding to nearest after each, and
// takes denormals for zero on the way in and out.  A product of two bfloat16 is exact in float32,
// so two fused multiply-adds in that order, under FlushDenormals, give the same bits (compared
// on a Zen 4 over 96 million random pairs, denormals included).  That is what the levels without
// the instruction do.
#pragma once

#include "native/simd.h"

constexpr int kPositions = 32;  // of a block of the cache

// Two bfloat16 or int16, the even one below.  Scores and probabilities share memory with float32.
typedef uint32_t __attribute__((may_alias)) Pair;

// Every level flushes denormals in attention over pairs, because vdpbf16ps cannot help doing so.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  // Bit 24 of FPCR flushes what an operation takes and gives, as both bits of MXCSR together.
  FlushDenormals() : before_(fpcr()) { set_fpcr(before_ | uint64_t(1) << 24); }
  ~FlushDenormals() { set_fpcr(before_); }

 private:
  static uint64_t fpcr() {
    uint64_t word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  // The compiler moves no load or store across it; arithmetic between registers it may.
  static void set_fpcr(uint64_t word) { asm volatile("msr fpcr, %0" : : "r"(word) : "memory"); }
  uint64_t before_;
#else
  FlushDenormals() {}
#endif
};
struct KeepDenormals {
  KeepDenormals() {}  // not trivial, or the compiler warns of an unused variable
};

struct FloatCells {
  using Cell = float;
  using Unit = float;
  using Lanes = f32x16;
  using Sum = f32x16;
  static constexpr int kTerms = 1;  // dimensions, or positions, of a step
  static PYRO_INLINE Lanes load_cells(const Cell *p) { return load(p); }
  static PYRO_INLINE f32x16 broadcast(Unit x) { return set1(x); }
  static PYRO_INLINE f32x16 step(f32x16 acc, Lanes cells, f32x16 unit) {
    return fma(cells, unit, acc);
  }
};

struct HalfCells : FloatCells {
  using Cell = uint16_t;
  static PYRO_INLINE Lanes load_cells(const Cell *p) { return load_half(p); }
};

#if defined(__AVX512BF16__)
struct PairLanes {
  __m512i v;
};
PYRO_INLINE PairLanes load_pairs(const Pair *p) { return {_mm512_loadu_si512(p)}; }
PYRO_INLINE PairLanes broadcast_pair(Pair x) { return {_mm512_set1_epi32(int32_t(x))}; }
PYRO_INLINE f32x16 dot_pairs(f32x16 acc, PairLanes a, PairLanes b) {
  acc.v[0] = (NativeF)_mm512_dpbf16_ps((__m512)acc.v[0], (__m512bh)a.v, (__m512bh)b.v);
  return acc;
}
// Rounds 32 floats to bfloat16, to nearest even, and stores them one after the other.
PYRO_INLINE void store_pairs(Pair *p, f32x16 a, f32x16 b) {
  const __m512bh pairs = _mm512_cvtne2ps_pbh((__m512)b.v[0], (__m512)a.v[0]);
  _mm512_storeu_si512(p, (__m512i)pairs);
}
#else
struct PairLanes {
  f32x16 odd, even;
};
PYRO_INLINE PairLanes split_pairs(i32x16 bits) {
  PairLanes out;
  PYRO_EACH {
    out.odd.v[r] = (NativeF)(bits.v[r] & int32_t(0xffff0000));
    out.even.v[r] = (NativeF)(bits.v[r] << 16);
  }
  return out;
}
PYRO_INLINE PairLanes load_pairs(const Pair *p) { return split_pairs(loadi(p)); }
PYRO_INLINE PairLanes broadcast_pair(Pair x) { return split_pairs(set1i(int32_t(x))); }
PYRO_INLINE f32x16 dot_pairs(f32x16 acc, PairLanes a, PairLanes b) {
  return fma(a.even, b.even, fma(a.odd, b.odd, acc));
}
PYRO_INLINE void store_pairs(Pair *p, f32x16 a, f32x16 b) {
  typedef uint32_t NativeU __attribute__((vector_size(4 * kWidth)));  // a NaN's bits may wrap
  const f32x16 both[2] = {a, b};
  uint32_t halves[2 * kLanes];
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) PYRO_EACH {
      const NativeI bits = (NativeI)both[i].v[r], magnitude = bits & 0x7fffffff;
      NativeI out = (NativeI)((NativeU)bits + 0x7fff + ((NativeU)bits >> 16 & 1));
      out = magnitude > 0x7f800000 ? bits | 0x400000 : out;             // a NaN stays one
      out = magnitude < 0x00800000 ? bits & int32_t(0x80000000) : out;  // a denormal
      std::memcpy(halves + i * kLanes + r * kWidth, &out, sizeof out);
    }
  for (int i = 0; i < kLanes; i++) p[i] = halves[2 * i] >> 16 | (halves[2 * i + 1] & 0xffff0000u);
}
#endif

struct PairCells {
  using Cell = Pair;
  using Unit = Pair;
  using Lanes = PairLanes;
  using Sum = f32x16;
  static constexpr int kTerms = 2;
  static PYRO_INLINE Lanes load_cells(const Cell *p) { return load_pairs(p); }
  static PYRO_INLINE Lanes broadcast(Unit x) { return broadcast_pair(x); }
  static PYRO_INLINE f32x16 step(f32x16 acc, Lanes cells, Lanes unit) {
    return dot_pairs(acc, cells, unit);
  }
};

// acc + a.even * b.even + a.odd * b.odd of int16 pairs.
PYRO_INLINE NativeI dot_words(NativeI acc, NativeI a, NativeI b) {
#if defined(__AVX512VNNI__)
  return (NativeI)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
  return acc + (NativeI)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return acc + (NativeI)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return acc + (NativeI)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  return (NativeI)neon::dot_words((int32x4_t)acc, (int16x8_t)a, (int16x8_t)b);
#else
  return acc + (a >> 16) * (b >> 16) + ((a << 16) >> 16) * ((b << 16) >> 16);
#endif
}

// 16 pairs of int8 as pairs of int16.
PYRO_INLINE i32x16 load_byte_pairs(const uint16_t *p) {
  i32x16 out;
#if defined(__AVX512F__)
  out.v[0] = (NativeI)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__AVX2__)
  PYRO_EACH out.v[r] = (NativeI)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p + 8 * r)));
#elif defined(__SSE4_1__)
  PYRO_EACH out.v[r] = (NativeI)_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)(p + 4 * r)));
#elif defined(__aarch64__)
  PYRO_EACH out.v[r] = (NativeI)vmovl_s8(vld1_s8((const int8_t *)(p + 4 * r)));
#else
  int32_t t[kLanes];
  for (int i = 0; i < kLanes; i++)
    t[i] = int32_t(uint32_t(int8_t(p[i] >> 8)) << 16 | uint16_t(int8_t(p[i])));
  out = loadi(t);
#endif
  return out;
}

// Rounds 32 floats to int16, to nearest even, and stores them one after the other; |x| < 2^15.
PYRO_INLINE void store_words(Pair *p, f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
  const __m512i even =
      _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                       24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i lower = _mm512_cvtps_epi32((__m512)a.v[0]);
  const __m512i upper = _mm512_cvtps_epi32((__m512)b.v[0]);
  _mm512_storeu_si512(p, _mm512_permutex2var_epi16(lower, even, upper));
#elif defined(__aarch64__)
  const f32x16 both[2] = {a, b};
  for (int i = 0; i < 2; i++)
    PYRO_EACH vst1_s16((int16_t *)p + i * kLanes + r * kWidth,
                       vmovn_s32(vcvtnq_s32_f32((float32x4_t)both[i].v[r])));
#else
  const i32x16 both[2] = {to_int(round_even(a)), to_int(round_even(b))};
  int32_t words[2 * kLanes];
  std::memcpy(words, both, sizeof words);
  for (int i = 0; i < kLanes; i++)
    p[i] = (uint32_t(words[2 * i]) & 0xffff) | uint32_t(words[2 * i + 1]) << 16;
#endif
}

struct ByteCells {
  using Cell = uint16_t;  // two int8
  using Unit = Pair;      // two int16
  using Lanes = i32x16;
  using Sum = i32x16;
  static constexpr int kTerms = 2;
  static PYRO_INLINE Lanes load_cells(const Cell *p) { return load_byte_pairs(p); }
  static PYRO_INLINE Lanes broadcast(Unit x) { return set1i(int32_t(x)); }
  static PYRO_INLINE Sum step(Sum acc, Lanes cells, Lanes unit) {
    PYRO_EACH acc.v[r] = dot_words(acc.v[r], cells.v[r], unit.v[r]);
    return acc;
  }
};
