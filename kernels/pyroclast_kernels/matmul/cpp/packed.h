// The packed weight layout that every product reads, GEMV and GEMM alike.
//
// Rows are taken 16 at a time, one row per SIMD lane, so a product needs no horizontal sum.  A
// group of 16 rows is one run of bytes, a multiple of 64 long, in the order in which it is read:
//   block formats   for each chunk its headers, then the quants (see codes.h) of its blocks of 32
//                   columns.  A header has the scales and minimums of 16 rows for 32 columns (K
//                   formats: 256); a chunk is one header or, where that ends within a cache line,
//                   two, so that quants begin on a line
//   f32, f16, bf16  for each column the 16 values
// Missing rows of the last group are zero.  packing.py describes the same layout to Python.  This
// file holds the formats without super-blocks; those with them are in superblocks.h.
#pragma once

#include "codes.h"

PYRO_INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A block format: a header for every HeaderBlocks blocks, and the quants of each block.  Half of a
// block has its own scale (and minimum) where Halves is 2.
template <class Codes, int Halves, int HeaderBlocks, int HeaderBytes>
struct BlockLayout : Codes {
  static constexpr bool kIsBlockFormat = true;
  static constexpr int kHalves = Halves;
  static constexpr int64_t kHeaderBlocks = HeaderBlocks, kHeaderBytes = HeaderBytes;
  static constexpr int64_t kChunkHeaders = HeaderBytes % 64 == 0 ? 1 : 2;
  static constexpr int64_t kChunkBlocks = kChunkHeaders * HeaderBlocks;
  static constexpr int64_t kChunkBytes =
      kChunkHeaders * HeaderBytes + kChunkBlocks * Codes::kQuantBytes;
  static_assert(kChunkBytes % 64 == 0);
  // Where the header and the quants of block b are in a group.
  static PYRO_INLINE int64_t header_offset(int64_t b) {
    return b / kChunkBlocks * kChunkBytes + b % kChunkBlocks / HeaderBlocks * HeaderBytes;
  }
  static PYRO_INLINE int64_t quants_offset(int64_t b) {
    return (b / kChunkBlocks + 1) * kChunkHeaders * HeaderBytes + b * Codes::kQuantBytes;
  }
  // The last chunk may lack its second header's blocks.
  static int64_t group_bytes(int64_t n_cols) {
    const int64_t n_blocks = n_cols / kBlock;
    return n_blocks ? quants_offset(n_blocks - 1) + Codes::kQuantBytes : 0;
  }
};

// One float16 scale, and perhaps a minimum, for each row and block.
template <class Codes, bool HasMin>
struct BlockOf32 : BlockLayout<Codes, 1, 1, HasMin ? 64 : 32> {
  static constexpr bool kHasMin = HasMin;
  static PYRO_INLINE void load_scales(const uint8_t *header, int, int, int r, NativeF &scale,
                                      NativeF &minimum) {
    const uint16_t *halves = (const uint16_t *)header;
    scale = load_half_native(halves, r);
    if constexpr (HasMin) minimum = load_half_native(halves + kLanes, r);
  }
};

// `start` begins the integer sum of a block, so that it comes out as if the codes were signed;
// kOffset is what it makes good for.
struct Q8_0 : BlockOf32<Codes8, false> {
  static constexpr int kOffset = 128;
  static PYRO_INLINE int32_t start(const Q8Block &x, int) {
    return kOffsetInDot ? x.minus_128_sum : 0;
  }
};
struct Q4_0 : BlockOf32<Codes4, false> {
  static constexpr int kOffset = 8;
  static PYRO_INLINE int32_t start(const Q8Block &x, int) { return x.minus_8_sum; }
};
struct Q4_1 : BlockOf32<Codes4, true> {
  static constexpr int kOffset = 0;
  static PYRO_INLINE int32_t start(const Q8Block &, int) { return 0; }
};
struct Q5_0 : BlockOf32<Codes5, false> {
  static constexpr int kOffset = 16;
  static PYRO_INLINE int32_t start(const Q8Block &x, int) { return 2 * x.minus_8_sum; }
};
struct Q5_1 : BlockOf32<Codes5, true> {
  static constexpr int kOffset = 0;
  static PYRO_INLINE int32_t start(const Q8Block &, int) { return 0; }
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

// What a tile fetches into L2 for later, beside its sums: `n_bytes` of each of its groups from
// `ahead` bytes on.
struct Fetch {
  int64_t ahead, n_bytes;
};
