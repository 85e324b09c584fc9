// The packed weight layout that every product reads, GEMV and GEMM alike.
//
// Rows are taken 16 at a time, one row per SIMD lane, so a product needs no horizontal sum.  A
// group of 16 rows is one run of bytes, a multiple of 64 long:
//   block formats   for each block of 32 columns its 16 float16 scales (and 16 minimums, q4_1),
//                   then for each block its quants: 4 bytes of a row, 16 rows side by side
//   f32, f16, bf16  for each column the 16 values
// Quants keep the nibble order of the file (low nibbles are columns 0..15 of a block, high nibbles
// 16..31); q8_0 is stored with +128, since vpdpbusd wants an unsigned side.
// Missing rows of the last group are zero.  packing.py describes the same layout to Python.
#pragma once

#include "../native/abi.h"
#include "../native/simd.h"

constexpr int64_t kBlock = 32;

PYRO_INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A block format: 8 vectors of 16 rows x 4 columns, scales, and perhaps minimums.
template <int ScaleBytes, int QuantBytes>
struct BlockLayout {
  static constexpr bool kIsBlockFormat = true;
  static constexpr int64_t kScaleBytes = ScaleBytes, kQuantBytes = QuantBytes;
  static int64_t quants_offset(int64_t n_cols) {
    return round_up(n_cols / kBlock * kScaleBytes, 64);
  }
  static int64_t group_bytes(int64_t n_cols) {
    return quants_offset(n_cols) + n_cols / kBlock * kQuantBytes;
  }
};

struct Q8_0 : BlockLayout<32, 512> {
  static constexpr bool kHasMin = false, kOffset128 = true;
  static constexpr int64_t kFileBytes = 34;
  // One native register (part r of the 16 lanes) of the column quads k and k + 4.
  static PYRO_INLINE void load_quads(const uint8_t *p, int k, int r, NativeI &low, NativeI &high) {
    std::memcpy(&low, p + 64 * k + 4 * kWidth * r, sizeof low);
    std::memcpy(&high, p + 64 * (k + 4) + 4 * kWidth * r, sizeof high);
  }
  static PYRO_INLINE NativeI dot(NativeI acc, NativeI w, int32_t x) {
    return dot_offset(acc, w, x);
  }
  static PYRO_INLINE int32_t start(const Q8Block &x) { return kOffsetInDot ? x.minus_128_sum : 0; }
  static float value(const uint8_t *quants, int lane, int column) {
    return float(int(quants[64 * (column / 4) + 4 * lane + column % 4]) - 128);
  }
};

template <int ScaleBytes>
struct Nibbles : BlockLayout<ScaleBytes, 256> {
  static constexpr bool kOffset128 = false;
  static PYRO_INLINE void load_quads(const uint8_t *p, int k, int r, NativeI &low, NativeI &high) {
    NativeI both;
    std::memcpy(&both, p + 64 * k + 4 * kWidth * r, sizeof both);
    low = both & 0x0f0f0f0f;
    high = (both >> 4) & 0x0f0f0f0f;
  }
  static PYRO_INLINE NativeI dot(NativeI acc, NativeI w, int32_t x) { return dot_small(acc, w, x); }
  static float nibble(const uint8_t *quants, int lane, int column) {
    uint8_t both = quants[64 * (column % 16 / 4) + 4 * lane + column % 4];
    return float(column < 16 ? both & 15 : both >> 4);
  }
};

struct Q4_0 : Nibbles<32> {
  static constexpr bool kHasMin = false;
  static constexpr int64_t kFileBytes = 18;
  static PYRO_INLINE int32_t start(const Q8Block &x) { return x.minus_8_sum; }
  static float value(const uint8_t *quants, int lane, int column) {
    return nibble(quants, lane, column) - 8;
  }
};

struct Q4_1 : Nibbles<64> {
  static constexpr bool kHasMin = true;
  static constexpr int64_t kFileBytes = 20;
  static PYRO_INLINE int32_t start(const Q8Block &) { return 0; }
  static float value(const uint8_t *quants, int lane, int column) {
    return nibble(quants, lane, column);
  }
};

// A format of plain values: for each column 16 values of kValueBytes.
struct F32 {
  static constexpr bool kIsBlockFormat = false;
  static constexpr int64_t kValueBytes = 4;
  static PYRO_INLINE f32x16 load(const uint8_t *p) { return ::load((const float *)p); }
  static float value(const uint8_t *p) {
    float f;
    std::memcpy(&f, p, 4);
    return f;
  }
};
struct F16 {
  static constexpr bool kIsBlockFormat = false;
  static constexpr int64_t kValueBytes = 2;
  static PYRO_INLINE f32x16 load(const uint8_t *p) { return load_half((const uint16_t *)p); }
  static float value(const uint8_t *p) { return half_to_float(*(const uint16_t *)p); }
};
struct BF16 {
  static constexpr bool kIsBlockFormat = false;
  static constexpr int64_t kValueBytes = 2;
  static PYRO_INLINE f32x16 load(const uint8_t *p) { return load_bfloat((const uint16_t *)p); }
  static float value(const uint8_t *p) { return bfloat_to_float(*(const uint16_t *)p); }
};

template <class F>
constexpr bool kIsBlock = F::kIsBlockFormat;

template <class F>
PYRO_INLINE int64_t group_bytes(int64_t n_cols) {
  if constexpr (kIsBlock<F>)
    return F::group_bytes(n_cols);
  else
    return round_up(n_cols * kLanes * F::kValueBytes, 64);
}
