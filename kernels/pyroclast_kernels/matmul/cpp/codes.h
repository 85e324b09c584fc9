// How the codes of 16 rows by 32 columns lie in memory, for every width of code.
//
// A quad is 4 neighbouring columns of a row, one byte each; a vector is the quads of 16 rows.  The
// columns 4k..4k+3 are quad k, k = 0..7.
//   Codes8   8 vectors, quad k in vector k
//   Codes4   4 vectors of nibbles: vector k holds quad k (low) and quad k + 4 (high)
//   Codes5   one vector of high bits, bit k of a byte belongs to quad k, then Codes4
//   Codes6   a vector of high bit pairs, of quads 0..3, then Codes4, then the pairs of quads 4..7
//   Codes2   two vectors of bit pairs, quads 0..3 and 4..7
//   Codes3   one vector of high bits, then Codes2
// Quads in turn touch the vectors from first to last: one ascending stream for the prefetcher.
// load_quad gives part r of quad k of 16 rows, unsigned bytes up to kLargest; every shift is
// constant once the callers' loops are unrolled.  put stores the codes of one row.
#pragma once

#include "native/abi.h"
#include "native/byte_products.h"

constexpr int64_t kBlock = 32;

// Part r of the 16 quads of a vector.
PYRO_INLINE NativeI load_vector(const uint8_t *p, int r) {
  NativeI quads;
  std::memcpy(&quads, p + 4 * kWidth * r, sizeof quads);
  return quads;
}
// Shifts left, or right where n < 0; bits that cross into the next byte are masked by the caller.
PYRO_INLINE NativeI shift(NativeI x, int n) { return n >= 0 ? x << n : x >> -n; }

PYRO_INLINE uint32_t get_quad(const uint8_t *codes, int k) {
  uint32_t quad;
  std::memcpy(&quad, codes + 4 * k, 4);
  return quad;
}
PYRO_INLINE void put_quad(uint8_t *p, int lane, uint32_t quad) {
  std::memcpy(p + 4 * lane, &quad, 4);
}

// A plane of single bits or of bit pairs, for one row: bits [from, from + Width) of every code.
template <int Width>
PYRO_INLINE void put_planes(uint8_t *p, int lane, const uint8_t *codes, int from,
                            int distance = 64) {
  constexpr int kPerPlane = 8 / Width;
  constexpr uint32_t kMask = Width == 1 ? 0x01010101 : 0x03030303;
  for (int first = 0; first < 8; first += kPerPlane) {
    uint32_t plane = 0;
    for (int k = 0; k < kPerPlane; k++)
      plane |= ((get_quad(codes, first + k) >> from) & kMask) << (Width * k);
    put_quad(p + distance * (first / kPerPlane), lane, plane);
  }
}
template <int Width>
PYRO_INLINE int get_plane(const uint8_t *p, int lane, int column, int distance = 64) {
  const int k = column / 4;
  const uint8_t plane = p[distance * (Width * k / 8) + 4 * lane + column % 4];
  return plane >> (Width * k % 8) & ((1 << Width) - 1);
}

struct Codes8 {
  static constexpr int kQuantBytes = 512, kLargest = 255;
  static PYRO_INLINE NativeI load_quad(const uint8_t *p, int k, int r) {
    return load_vector(p + 64 * k, r);
  }
  static PYRO_INLINE NativeI dot(NativeI acc, NativeI w, Quad x) { return dot_offset(acc, w, x); }
  static void put(uint8_t *p, int lane, const uint8_t *codes) {
    for (int k = 0; k < 8; k++) put_quad(p + 64 * k, lane, get_quad(codes, k));
  }
  static int code(const uint8_t *p, int lane, int column) {
    return p[64 * (column / 4) + 4 * lane + column % 4];
  }
};

struct Codes4 {
  static constexpr int kQuantBytes = 256, kLargest = 15;
  static PYRO_INLINE NativeI load_quad(const uint8_t *p, int k, int r) {
    return (load_vector(p + 64 * (k % 4), r) >> (k < 4 ? 0 : 4)) & 0x0f0f0f0f;
  }
  static PYRO_INLINE NativeI dot(NativeI acc, NativeI w, Quad x) { return dot_small(acc, w, x); }
  static void put(uint8_t *p, int lane, const uint8_t *codes) {
    for (int k = 0; k < 4; k++) {
      const uint32_t low = get_quad(codes, k) & 0x0f0f0f0f;
      put_quad(p + 64 * k, lane, low | (get_quad(codes, k + 4) & 0x0f0f0f0f) << 4);
    }
  }
  static int code(const uint8_t *p, int lane, int column) {
    const uint8_t both = p[64 * (column % 16 / 4) + 4 * lane + column % 4];
    return column < 16 ? both & 15 : both >> 4;
  }
};

struct Codes5 : Codes4 {
  static constexpr int kQuantBytes = 320, kLargest = 31;
  static PYRO_INLINE NativeI load_quad(const uint8_t *p, int k, int r) {
    const NativeI high = shift(load_vector(p, r), 4 - k) & 0x10101010;
    return high | Codes4::load_quad(p + 64, k, r);
  }
  static void put(uint8_t *p, int lane, const uint8_t *codes) {
    put_planes<1>(p, lane, codes, 4);
    Codes4::put(p + 64, lane, codes);
  }
  static int code(const uint8_t *p, int lane, int column) {
    return get_plane<1>(p, lane, column) << 4 | Codes4::code(p + 64, lane, column);
  }
};

struct Codes6 : Codes4 {
  static constexpr int kQuantBytes = 384, kSecond = 320, kLargest = 63;
  static PYRO_INLINE NativeI load_quad(const uint8_t *p, int k, int r) {
    const NativeI pairs = load_vector(p + (k < 4 ? 0 : kSecond), r);
    return (shift(pairs, 4 - 2 * (k % 4)) & 0x30303030) | Codes4::load_quad(p + 64, k, r);
  }
  static void put(uint8_t *p, int lane, const uint8_t *codes) {
    put_planes<2>(p, lane, codes, 4, kSecond);
    Codes4::put(p + 64, lane, codes);
  }
  static int code(const uint8_t *p, int lane, int column) {
    return get_plane<2>(p, lane, column, kSecond) << 4 | Codes4::code(p + 64, lane, column);
  }
};

struct Codes2 {
  static constexpr int kQuantBytes = 128, kLargest = 3;
  static PYRO_INLINE NativeI load_quad(const uint8_t *p, int k, int r) {
    return shift(load_vector(p + (k < 4 ? 0 : 64), r), -2 * (k % 4)) & 0x03030303;
  }
  static PYRO_INLINE NativeI dot(NativeI acc, NativeI w, Quad x) { return dot_small(acc, w, x); }
  static void put(uint8_t *p, int lane, const uint8_t *codes) { put_planes<2>(p, lane, codes, 0); }
  static int code(const uint8_t *p, int lane, int column) { return get_plane<2>(p, lane, column); }
};

struct Codes3 : Codes2 {
  static constexpr int kQuantBytes = 192, kLargest = 7;
  static PYRO_INLINE NativeI load_quad(const uint8_t *p, int k, int r) {
    const NativeI high = shift(load_vector(p, r), 2 - k) & 0x04040404;
    return high | Codes2::load_quad(p + 64, k, r);
  }
  static void put(uint8_t *p, int lane, const uint8_t *codes) {
    put_planes<1>(p, lane, codes, 2);
    Codes2::put(p + 64, lane, codes);
  }
  static int code(const uint8_t *p, int lane, int column) {
    return get_plane<1>(p, lane, column) << 2 | Codes2::code(p + 64, lane, column);
  }
};
