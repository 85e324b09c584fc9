// Formats whose 4-bit codes stand for one of 16 signed bytes, looked up in a register.
//
//   iq4_nl  a float16 scale per block of 32 columns
//   mxfp4   the same with a power of two, kept as bfloat16, and the values of E2M1, doubled
//   iq4_xs  super-blocks of 256: d, and 8 signed scales
//   iq3_s   the same; its grid holds odd numbers up to 15, so codes need 4 bits, and no grid
//   t4_k    super-blocks with 16 signed scales, and every value that IQ1 and IQ2 have, in eighths
//
// A look-up gives value + kBias, unsigned as the dot product wants it; `start` makes good for it.
#pragma once

#include <array>

#include "superblocks.h"

typedef std::array<int8_t, 16> Values16;

struct NonLinear {
  static constexpr int kBias = 128;
  static constexpr Values16 kValues = {-127, -104, -83, -65, -49, -35, -22, -10,
                                       1,    13,   25,  38,  53,  69,  89,  113};
};
struct E2M1 {
  static constexpr int kBias = 16;
  static constexpr Values16 kValues = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
};
struct OddNumbers {
  static constexpr int kBias = 16;
  static constexpr Values16 kValues = {-15, -13, -11, -9, -7, -5, -3, -1,
                                       1,   3,   5,   7,  9,  11, 13, 15};
};
struct GridEighths {
  static constexpr int kBias = 64;
  static constexpr Values16 kValues = {-43, -25, -9, -8, -7, -1, 0, 1, 7, 8, 9, 25, 43, 0, 0, 0};
};

template <class Table>
constexpr std::array<uint8_t, 16> biased() {
  std::array<uint8_t, 16> out{};
  for (size_t i = 0; i < 16; i++) out[i] = uint8_t(Table::kValues[i] + Table::kBias);
  return out;
}

// The byte of the table that each byte 0..15 of `codes` names.
PYRO_INLINE NativeI look_up(const std::array<uint8_t, 16> &table, NativeI codes) {
#if defined(__SSSE3__)
  const __m128i lane = _mm_loadu_si128((const __m128i *)table.data());
#endif
#if defined(__AVX512F__)
  return (NativeI)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(lane), (__m512i)codes);
#elif defined(__AVX2__)
  return (NativeI)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(lane), (__m256i)codes);
#elif defined(__SSSE3__)
  return (NativeI)_mm_shuffle_epi8(lane, (__m128i)codes);
#elif defined(__aarch64__)
  return (NativeI)vqtbl1q_u8(vld1q_u8(table.data()), (uint8x16_t)codes);
#else
  uint8_t bytes[sizeof codes];
  std::memcpy(bytes, &codes, sizeof codes);
  for (uint8_t &byte : bytes) byte = table[byte];
  std::memcpy(&codes, bytes, sizeof codes);
  return codes;
#endif
}

constexpr int largest_of(const std::array<uint8_t, 16> &table) {
  int found = 0;
  for (uint8_t value : table) found = value > found ? value : found;
  return found;
}

template <class Table>
struct TableCodes : Codes4 {
  static constexpr auto kTable = biased<Table>();
  static constexpr int kLargest = largest_of(kTable);
  static PYRO_INLINE NativeI load_quad(const uint8_t *p, int k, int r) {
    return look_up(kTable, Codes4::load_quad(p, k, r));
  }
  static PYRO_INLINE NativeI dot(NativeI acc, NativeI w, Quad x) {
    return Table::kBias == 128 ? dot_offset(acc, w, x) : dot_small(acc, w, x);
  }
  static int code(const uint8_t *p, int lane, int column) {
    return Table::kValues[size_t(Codes4::code(p, lane, column))];
  }
  static constexpr int kOffset = 0;  // code() gives the value itself
  static PYRO_INLINE int32_t minus_bias_sum(const Q8Block &x) {
    if constexpr (Table::kBias == 128) return kOffsetInDot ? x.minus_128_sum : 0;
    return Table::kBias / 8 * x.minus_8_sum;
  }
};

struct IQ4_NL : BlockOf32<TableCodes<NonLinear>, false> {
  static PYRO_INLINE int32_t start(const Q8Block &x, int) { return minus_bias_sum(x); }
};

struct MXFP4 : BlockOf32<TableCodes<E2M1>, false> {
  static PYRO_INLINE int32_t start(const Q8Block &x, int) { return minus_bias_sum(x); }
  static PYRO_INLINE void load_scales(const uint8_t *header, int, int, int r, NativeF &scale,
                                      NativeF &) {
    scale = (NativeF)(load_u16_native((const uint16_t *)header + kWidth * r) << 16);
  }
};

// d and 8 signed scales.
template <class Table>
struct SuperOf8 : BlockLayout<TableCodes<Table>, 1, 8, 160> {
  static constexpr bool kHasMin = false;
  static PYRO_INLINE int32_t start(const Q8Block &x, int) {
    return TableCodes<Table>::minus_bias_sum(x);
  }
  static PYRO_INLINE void load_scales(const uint8_t *header, int b, int, int r, NativeF &scale,
                                      NativeF &) {
    scale = load_half_native((const uint16_t *)header, r) *
            to_float_native(load_small<true>(header + 32 + kLanes * b, r));
  }
};
struct IQ4_XS : SuperOf8<NonLinear> {};
struct IQ3_S : SuperOf8<OddNumbers> {};

struct T4_K : BlockLayout<TableCodes<GridEighths>, 2, 8, 288> {
  static constexpr bool kHasMin = false;
  static PYRO_INLINE int32_t start(const Q8Block &x, int half) {
    return GridEighths::kBias / 4 * x.minus_4_half_sum[half];
  }
  static PYRO_INLINE void load_scales(const uint8_t *header, int b, int half, int r, NativeF &scale,
                                      NativeF &) {
    const NativeI small = load_small<true>(header + 32 + kLanes * (2 * b + half), r);
    scale = load_half_native((const uint16_t *)header, r) * 0.125f * to_float_native(small);
  }
};
