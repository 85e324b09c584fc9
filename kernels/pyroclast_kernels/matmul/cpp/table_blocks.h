// Blocks of the formats of tables.h as they lie in a file, taken apart for packing.
#pragma once

#include "file_blocks.h"
#include "iq3_s_grid.h"
#include "tables.h"

template <>
struct File<IQ4_NL> {
  static constexpr int kBytes = 18, kColumns = 32, kHalves = 1, kSmall = 0;
  static void read(const uint8_t *p, FileBlock<32> &out) {
    std::memcpy(out.halves, p, 2);
    add_nibbles(p + 2, out.codes);
  }
};

template <>
struct File<MXFP4> {
  static constexpr int kBytes = 17, kColumns = 32, kHalves = 1, kSmall = 0;
  // 2 ** (e - 128) as bfloat16: half of what E8M0 says, since the codes are doubled.
  static void read(const uint8_t *p, FileBlock<32> &out) {
    const uint16_t scale = uint16_t(p[0] < 2 ? 0x20 << p[0] : (p[0] - 1) << 7);
    std::memcpy(out.halves, &scale, 2);
    add_nibbles(p + 1, out.codes);
  }
};

template <>
struct File<IQ4_XS> {
  static constexpr int kBytes = 136, kColumns = kSuper, kHalves = 1, kSmall = 8;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    std::memcpy(out.halves, p, 2);
    for (int i = 0; i < 8; i++) {
      const int low = p[4 + i / 2] >> (4 * (i % 2)) & 15, high = p[2 + i / 4] >> (2 * (i % 4)) & 3;
      out.bytes[i] = uint8_t((low | high << 4) - 32);
      add_nibbles(p + 8 + 16 * i, out.codes + 32 * i);
    }
  }
};

template <>
struct File<IQ3_S> {
  static constexpr int kBytes = 110, kColumns = kSuper, kHalves = 1, kSmall = 8;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    const uint8_t *low = p + 2, *high = p + 66, *signs = p + 74, *scales = p + 106;
    std::memcpy(out.halves, p, 2);
    for (int i = 0; i < 8; i++)
      out.bytes[i] = uint8_t(1 + 2 * (scales[i / 2] >> (4 * (i % 2)) & 15));
    for (int i = 0; i < 64; i++) {
      const uint16_t grid = kIq3sGrid[low[i] | (high[i / 8] >> (i % 8) & 1) << 8];
      for (int j = 0; j < 4; j++) {
        const int column = 4 * i + j, number = grid >> (4 * j) & 15;
        const bool negative = signs[column / 8] >> (column % 8) & 1;
        out.codes[column] = uint8_t(negative ? 7 - number : 8 + number);
      }
    }
  }
};

template <>
struct File<T4_K> {
  static constexpr int kBytes = 146, kColumns = kSuper, kHalves = 1, kSmall = 16;
  static void read(const uint8_t *p, FileBlock<kSuper> &out) {
    std::memcpy(out.halves, p, 2);
    std::memcpy(out.bytes, p + 2, 16);
    for (int i = 0; i < 8; i++) add_nibbles(p + 18 + 16 * i, out.codes + 32 * i);
  }
};
