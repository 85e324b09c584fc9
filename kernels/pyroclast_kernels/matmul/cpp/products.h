// A block format as its products see it: a table of tiles.  So the loops around the tiles
// (matmul.cpp, gate_up.cpp, experts/cpp/blocks.cpp) are compiled once, not once for each format and
// number of tokens, and all products of a format call the same tiles.
#pragma once

#include <utility>

#include "block_tile.h"

using TileFunction = void (*)(const uint8_t *group, Spread spread, int64_t n_cols, const Q8Block *x,
                              Fetch fetch, float *sums, int64_t stride);

// Of one group of rows, of two, of as many as the registers hold, and of one from each stream.
struct Tiles {
  TileFunction one, two, most, streams;
};

struct BlockFormat {
  int64_t (*group_bytes)(int64_t n_cols);
  Tiles tiles[kMaxTokens];  // of 1, 2, ... tokens
};

template <class F, int M>
constexpr Tiles tiles_of() {
  constexpr int G = groups_for(M), kStreams = M <= kStreamTokens ? most_streams(M) : 1;
  return {block_tile<F, M, 1>, block_tile<F, M, (G < 2 ? G : 2)>, block_tile<F, M, G>,
          block_tile<F, M, kStreams>};
}
template <class F, int... I>
constexpr BlockFormat format_of(std::integer_sequence<int, I...>) {
  return {F::group_bytes, {tiles_of<F, I + 1>()...}};
}
template <class F>
constexpr BlockFormat kFormat = format_of<F>(std::make_integer_sequence<int, kMaxTokens>());

void matmul_of(const BlockFormat &format, const void *args, int part, int n_parts);
void gate_up_of(const BlockFormat &format, const void *args, int part, int n_parts);
void expert_gate_up_of(const BlockFormat &format, const void *args, int part, int n_parts);
void expert_down_of(const BlockFormat &format, const void *args, int part, int n_parts);
int64_t expert_gate_up_bytes(const void *args);  // of scratch memory
int64_t expert_down_bytes(const void *args);

template <class F>
void matmul(const void *args, int part, int n_parts) {
  matmul_of(kFormat<F>, args, part, n_parts);
}
template <class F>
void gate_up(const void *args, int part, int n_parts) {
  gate_up_of(kFormat<F>, args, part, n_parts);
}
template <class F>
void expert_gate_up(const void *args, int part, int n_parts) {
  expert_gate_up_of(kFormat<F>, args, part, n_parts);
}
template <class F>
void expert_down(const void *args, int part, int n_parts) {
  expert_down_of(kFormat<F>, args, part, n_parts);
}

// All products of a format.
#define PYRO_PRODUCTS(name, F)                                                  \
  PYRO_KERNEL("matmul." name, matmul<F>);                                       \
  PYRO_KERNEL("gate_up." name, gate_up<F>);                                     \
  PYRO_KERNEL("expert_gate_up." name, expert_gate_up<F>, expert_gate_up_bytes); \
  PYRO_KERNEL("expert_down." name, expert_down<F>, expert_down_bytes)
