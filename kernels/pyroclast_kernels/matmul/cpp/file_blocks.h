// A block as it lies in a GGUF file, taken apart for packing: codes as unsigned bytes, a column
// each, and what its lane of the packed header holds.  The bit fields are ggml's.
#pragma once

#include "superblocks.h"

constexpr int kSuper = 256;

// Splits bytes into fields of Width bits: the lowest fields of `group` bytes come first, then their
// next ones, then the next group.  A field is put into its code `at` bits from the bottom.
template <int Width>
PYRO_INLINE void add_fields(const uint8_t *packed, int n_bytes, int group, int at,
                            uint8_t *__restrict codes) {
  for (int first = 0; first < n_bytes; first += group)
    for (int bit = 0; bit < 8; bit += Width, codes += group)
      for (int i = 0; i < group; i++)
        codes[i] |= uint8_t((packed[first + i] >> bit & ((1 << Width) - 1)) << at);
}

// The same for the 16 bytes of nibbles of a block of 32, a quad at a time: GCC unrolls loops this
// short before it looks for vectors (packing ran at a tenth of the speed).
PYRO_INLINE void add_nibbles(const uint8_t *packed, uint8_t *codes) {
  for (int k = 0; k < 4; k++) {
    const uint32_t both = get_quad(packed, k);
    const uint32_t low = get_quad(codes, k) | (both & 0x0f0f0f0f);
    const uint32_t high = get_quad(codes, k + 4) | (both >> 4 & 0x0f0f0f0f);
    std::memcpy(codes + 4 * k, &low, 4);
    std::memcpy(codes + 4 * (k + 4), &high, 4);
  }
}

// The high bits of the 32 codes of q5_0 and q5_1: bit i belongs to column i.  The product puts
// copies of four bits seven apart, and so one bit at the bottom of each byte.
PYRO_INLINE void add_high_bits(const uint8_t *packed, uint8_t *codes) {
  const uint32_t bits = get_quad(packed, 0);
  for (int k = 0; k < 8; k++) {
    const uint32_t spread = (bits >> (4 * k) & 15) * 0x00204081u & 0x01010101u;
    const uint32_t quad = get_quad(codes, k) | spread << 4;
    std::memcpy(codes + 4 * k, &quad, 4);
  }
}

// What a format's block holds: kColumns codes, a float16 scale and perhaps a minimum, and up to 16
// bytes of small scales and minimums, as the packed header wants them.
template <int Columns>
struct FileBlock {
  uint8_t codes[Columns] = {};
  uint8_t halves[4];
  uint8_t bytes[kLanes] = {};
};

template <class F>
struct File;

template <>
struct File<Q8_0> {
  static constexpr int kBytes = 34, kColumns = 32, kHalves = 1, kSmall = 0;
  static void read(const uint8_t *p, FileBlock<32> &out) {
    std::memcpy(out.halves, p, 2);
    for (int i = 0; i < 32; i++) out.codes[i] = p[2 + i] ^ 0x80;  // + 128
  }
};

template <>
struct File<Q4_0> {
  static constexpr int kBytes = 18, kColumns = 32, kHalves = 1, kSmall = 0;
  static void read(const uint8_t *p, FileBlock<32> &out) {
    std::memcpy(out.halves, p, 2);
    add_nibbles(p + 2, out.codes);
  }
};

template <>
struct File<Q4_1> {
  static constexpr int kBytes = 20, kColumns = 32, kHalves = 2, kSmall = 0;
  static void read(const uint8_t *p, FileBlock<32> &out) {
    std::memcpy(out.halves, p, 4);
    add_nibbles(p + 4, out.codes);
  }
};

template <>
struct File<Q5_0> {
  static constexpr int kBytes = 22, kColumns = 32, kHalves = 1, kSmall = 0;
  static void read(const uint8_t *p, FileBlock<32> &out) {
    std::memcpy(out.halves, p, 2);
    add_high_bits(p + 2, out.codes);
    add_nibbles(p + 6, out.codes);
  }
};

template <>
struct File<Q5_1> {
  static constexpr int kBytes = 24, kColumns = 32, kHalves = 2, kSmall = 0;
  static void read(const uint8_t *p, FileBlock<32> &out) {
    std::memcpy(out.halves, p, 4);
    add_high_bits(p + 4, out.codes);
    add_nibbles(p + 8, out.codes);
  }
};

template <>
struct File<Q2_K> {
  static constexpr int kBytes = 84, kColumns = kSuper, kHalves = 2, kSmall = 16;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    std::memcpy(out.bytes, p, 16);
    add_fields<2>(p + 16, 64, 32, 0, out.codes);
    std::memcpy(out.halves, p + 80, 4);
  }
};

template <>
struct File<Q3_K> {
  static constexpr int kBytes = 110, kColumns = kSuper, kHalves = 1, kSmall = 16;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    add_fields<1>(p, 32, 32, 2, out.codes);
    add_fields<2>(p + 32, 64, 32, 0, out.codes);
    add_fields<4>(p + 96, 8, 8, 0, out.bytes);
    add_fields<2>(p + 104, 4, 4, 4, out.bytes);
    for (int i = 0; i < 16; i++) out.bytes[i] = uint8_t(out.bytes[i] - 32);
    std::memcpy(out.halves, p + 108, 2);
  }
};

// Eight 6-bit scales and minimums in 12 bytes: four of each whole in bytes 0..7, whose two highest
// bits complete the other four, the low nibbles of which are in bytes 8..11.
PYRO_INLINE void read_scales_and_minimums(const uint8_t *p, uint8_t *scales) {
  uint8_t *minimums = scales + 8;
  for (int i = 0; i < 4; i++) {
    scales[i] = p[i] & 63;
    minimums[i] = p[4 + i] & 63;
    scales[4 + i] = uint8_t((p[8 + i] & 15) | (p[i] >> 2 & 48));
    minimums[4 + i] = uint8_t(p[8 + i] >> 4 | (p[4 + i] >> 2 & 48));
  }
}

template <>
struct File<Q4_K> {
  static constexpr int kBytes = 144, kColumns = kSuper, kHalves = 2, kSmall = 16;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    std::memcpy(out.halves, p, 4);
    read_scales_and_minimums(p + 4, out.bytes);
    add_fields<4>(p + 16, 128, 32, 0, out.codes);
  }
};

template <>
struct File<Q5_K> {
  static constexpr int kBytes = 176, kColumns = kSuper, kHalves = 2, kSmall = 16;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    std::memcpy(out.halves, p, 4);
    read_scales_and_minimums(p + 4, out.bytes);
    add_fields<1>(p + 16, 32, 32, 4, out.codes);
    add_fields<4>(p + 48, 128, 32, 0, out.codes);
  }
};

template <>
struct File<Q6_K> {
  static constexpr int kBytes = 210, kColumns = kSuper, kHalves = 1, kSmall = 16;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    add_fields<4>(p, 128, 64, 0, out.codes);
    add_fields<2>(p + 128, 64, 32, 4, out.codes);
    std::memcpy(out.bytes, p + 192, 16);
    std::memcpy(out.halves, p + 208, 2);
  }
};
