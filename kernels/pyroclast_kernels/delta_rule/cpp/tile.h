// A recurrent layer's states in tiles of 32 columns, and a token's step through one: what
// delta_rule and ssm share.
#pragma once

#include <algorithm>

#include "native/abi.h"
#include "native/simd.h"

constexpr int64_t kTile = 2 * kLanes;  // TILE of delta_rule/__init__.py

// float32 (n_slots, n_heads, n_tiles, n_rows, kTile): the matrices (n_rows, n_columns) of heads.
struct States {
  float *state;
  int64_t n_heads, n_rows, n_columns;

  int64_t n_tiles() const { return (n_columns + kTile - 1) / kTile; }
  float *tile_at(int64_t slot, int64_t head, int64_t tile) const {
    return state + ((slot * n_heads + head) * n_tiles() + tile) * n_rows * kTile;
  }
};

// Where a tile is read and written while a sequence's tokens [begin, end) go through it.  Until a
// token keeps its state, the state is in the slot that this token names.
struct Walk {
  States states;
  const int32_t *slots_out;
  int64_t head, tile, end, kept = 0;
  const float *from = nullptr;
  float *to = nullptr;

  PYRO_INLINE void start(int64_t begin, int64_t slot_in) {
    aim(begin);
    from = states.tile_at(slot_in, head, tile);
    if (slot_in >= 0) return;
    std::fill_n(to, states.n_rows * kTile, 0.0f);
    from = to;
  }
  PYRO_INLINE void pass(int64_t t) {
    from = to;
    if (t == kept && t + 1 < end) aim(t + 1);
  }
  PYRO_INLINE void aim(int64_t t) {
    for (kept = t; kept < end - 1 && slots_out[kept] < 0;) kept++;
    to = states.tile_at(slots_out[kept], head, tile);
  }
};

// The columns of a tile in one row of a state, or a sum of each.
struct Columns {
  f32x16 v[2];
};
PYRO_INLINE Columns load_columns(const float *p) { return {load(p), load(p + kLanes)}; }
PYRO_INLINE void store_columns(float *p, const Columns &x) {
  store(p, x.v[0]);
  store(p + kLanes, x.v[1]);
}

// to = decay * from + k delta; returns q to, and in `sums` next_k to, if there is a next token.
template <bool kNext>
PYRO_INLINE Columns update(const float *from, float *to, const float *q, const float *k,
                           const float *next_k, int64_t k_dim, f32x16 decay, const Columns &delta,
                           Columns &sums) {
  Columns out = {}, next = {};
  for (int64_t i = 0; i < k_dim; i++) {
    Columns row = load_columns(from + i * kTile);
    for (int j = 0; j < 2; j++) {
      row.v[j] = fma(set1(k[i]), delta.v[j], decay * row.v[j]);
      out.v[j] = fma(set1(q[i]), row.v[j], out.v[j]);
      if (kNext) next.v[j] = fma(set1(next_k[i]), row.v[j], next.v[j]);
    }
    store_columns(to + i * kTile, row);
  }
  sums = next;
  return out;
}

// Tokens lie a page or more apart, where no hardware prefetches them, and one takes long enough to
// fetch another: without this a prompt of 512 tokens took an eighth longer.
constexpr int64_t kAhead = 4;
PYRO_INLINE void prefetch(const float *p, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) __builtin_prefetch(p + i, 0, 2);
}
