// The formats of the cache (attention/cache.py): how large the keys and the values of one block
// and kv head are, how they are read and, by rope, written.
#pragma once

#include "activation/cpp/quantize.h"
#include "cells.h"

PYRO_INLINE int64_t scale_groups(int64_t head_dim) { return (head_dim + 31) / 32; }

template <class Number, class Cells>
struct PlainFormat {
  using Source = Cells;
  using Denormals = KeepDenormals;
  static constexpr bool kScaled = false;
  static int64_t key_bytes(int64_t head_dim) {
    return head_dim * kPositions * int64_t(sizeof(Number));
  }
  static int64_t value_bytes(int64_t, int64_t stride) {
    return stride * kPositions * int64_t(sizeof(Number));
  }
};

constexpr int64_t kHeadCells = 512;  // of the largest head (MAX_HEAD_DIM)

// A head as cells, whole vectors at a time: `out` has room for 32 more.
PYRO_INLINE void narrow(const float *x, int64_t n, float *out) {
  for (int64_t d = 0; d < n; d += kLanes) store(out + d, load_n(x + d, n - d));
}
PYRO_INLINE void narrow(const float *x, int64_t n, uint16_t *out) {
  for (int64_t d = 0; d < n; d += kLanes) store_half(out + d, load_n(x + d, n - d));
}
PYRO_INLINE void narrow(const float *x, int64_t n, Pair *out) {
  for (int64_t d = 0; d < n; d += 2 * kLanes)
    store_pairs(out + d / 2, load_n(x + d, n - d), load_n(x + d + kLanes, n - d - kLanes));
}

template <class Number, class Cells>
struct FloatFormat : PlainFormat<Number, Cells> {
  static void write(uint8_t *keys, uint8_t *values, int64_t slot, const float *k, const float *v,
                    int64_t head_dim, int64_t stride) {
    Number cells[kHeadCells + 32];
    narrow(k, head_dim, cells);
    for (int64_t d = 0; d < head_dim; d++) ((Number *)keys)[d * kPositions + slot] = cells[d];
    narrow(v, head_dim, cells);
    std::memcpy((Number *)values + slot * stride, cells, size_t(head_dim) * sizeof(Number));
  }
};

using F32Format = FloatFormat<float, FloatCells>;
using F16Format = FloatFormat<uint16_t, HalfCells>;

// Cells in pairs: two dimensions of a position side by side for keys, two positions of a dimension
// for values.  Puts one position's head, n cells of half a pair each, where they belong.
template <class Half, class Both>
PYRO_INLINE void put_key(uint8_t *keys, int64_t slot, const Both *pairs, int64_t n) {
  static_assert(sizeof(Both) == 2 * sizeof(Half), "two to a pair");
  for (int64_t i = 0; i < n / 2; i++) ((Both *)keys)[i * kPositions + slot] = pairs[i];
}
template <class Half>
PYRO_INLINE void put_value(uint8_t *values, int64_t slot, const Half *cells, int64_t n,
                           int64_t stride) {
  Half *out = (Half *)values + slot / 2 * stride * 2 + slot % 2;
  for (int64_t d = 0; d < n; d++) out[2 * d] = cells[d];
}

struct Bf16Format : PlainFormat<uint16_t, PairCells> {
  using Denormals = FlushDenormals;
  static void write(uint8_t *keys, uint8_t *values, int64_t slot, const float *k, const float *v,
                    int64_t head_dim, int64_t stride) {
    Pair pairs[kHeadCells / 2 + 16];
    uint16_t cells[2 * (kHeadCells / 2 + 16)];
    narrow(k, head_dim, pairs);
    put_key<uint16_t>(keys, slot, pairs, head_dim);
    narrow(v, head_dim, pairs);
    std::memcpy(cells, pairs, sizeof cells);
    put_value(values, slot, cells, head_dim, stride);
  }
};

// Quants as in bf16, then float16 scales (groups of 32 dimensions, block).
struct Q8Format {
  using Source = ByteCells;
  using Denormals = KeepDenormals;
  static constexpr bool kScaled = true;
  static int64_t key_bytes(int64_t head_dim) {
    return (head_dim + 2 * scale_groups(head_dim)) * kPositions;
  }
  static int64_t value_bytes(int64_t head_dim, int64_t stride) {
    return (stride + 2 * scale_groups(head_dim)) * kPositions;
  }

  static void write(uint8_t *keys, uint8_t *values, int64_t slot, const float *k, const float *v,
                    int64_t head_dim, int64_t stride) {
    uint16_t *key_scales = (uint16_t *)(keys + head_dim * kPositions);
    uint16_t *value_scales = (uint16_t *)(values + stride * kPositions);
    const int64_t groups = scale_groups(head_dim);
    for (int64_t group = 0; group < groups; group++) {
      const int64_t first = 32 * group, n = head_dim - first < 32 ? head_dim - first : 32;
      const Q8Block key = quantized(k + first, n), value = quantized(v + first, n);
      key_scales[group * kPositions + slot] = float_to_half(key.scale);
      value_scales[group * kPositions + slot] = float_to_half(value.scale);
      uint16_t pairs[16];
      std::memcpy(pairs, key.values, sizeof pairs);
      put_key<uint8_t>(keys + first * kPositions, slot, pairs, n);
      put_value(values + 2 * first, slot, (const uint8_t *)value.values, n, stride);
    }
  }

  static Q8Block quantized(const float *x, int64_t n) {
    alignas(64) float padded[32] = {};
    std::memcpy(padded, x, size_t(n) * sizeof(float));
    Q8Block block;
    quantize_block(padded, block);
    return block;
  }
};
