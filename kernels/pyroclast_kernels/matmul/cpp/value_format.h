// A format of plain values as the products of experts see it: a table of the tiles of matmul, so
// that both call the same ones; see products.h for the block formats.
#pragma once

#include <algorithm>
#include <utility>

#include "values.h"

namespace values {

// A tile's sums fill 24 of 32 registers (12 of 16 where they are narrower), so that M + G loads
// serve M * G multiply-adds.  Share of the FMA peak on Zen 4, f32, 512 tokens, 2048 x 2048: 94% at
// 8 x 3, 88% at 6 x 4, 89% at 12 x 2.
constexpr int kCells = kWidth == 16 ? 24 : kWidth == 8 ? 6 : 3;
constexpr int kMaxTokens = kWidth == 16 ? 8 : kCells;
constexpr int groups_for(int m) { return kCells / m > 4 ? 4 : kCells / m < 1 ? 1 : kCells / m; }
constexpr int smaller(int m) { return kWidth == 8 ? m - 1 : m == 8 ? 6 : m == 6 ? 4 : m - 1; }

// Half of Zen 4's L2, but never less than two steps of 3 groups, unless a batch is small.  On Zen
// 3, which has half of that L2, 64 to 512 KiB were equal within the noise.
constexpr int64_t kPanelBytes = 512 * 1024, kPanelStep = 6;
// A chunk's activations come from L3, 4 bytes a token and step where weights take 64 a group.  More
// would push the weights out; fewer would read them from memory more often than every 128 tokens.
constexpr int64_t kScratchBytes = 4 << 20;

// The number of tokens of the template that computes n.
constexpr int padded(int64_t n) {
  int m = kMaxTokens;
  while (m > 1 && n <= smaller(m)) m = smaller(m);
  return m;
}

// Whether tiles are of nearly equal size and fetch the next panel between them.  The first tile of
// a panel waits for memory and the others for products: apart, each leaves the other unused.  Where
// two groups do not fit L2 together, that gains nothing.  Not measured where registers have another
// width.
constexpr bool kFetchesPanels = kWidth == 8;
static_assert(!kFetchesPanels || (padded(5) == 5 && padded(4) == 4 && padded(3) == 3),
              "a tile of any size takes no more room than its tokens");
// The least batch whose tiles have one group each.
constexpr int64_t kFetchTokens = 4;
static_assert(!kFetchesPanels || (groups_for(kFetchTokens) == 1 && groups_for(3) > 1));

// Activations of this many bytes stay in L2 while all weights pass by, in panels of one tile.
constexpr int64_t kSmallBatchBytes = 128 * 1024;

// Calls f(index, number of tiles, first token, number of tokens) for tiles that cover n tokens.
template <class Function>
PYRO_INLINE void for_each_tile(int64_t n_tokens, Function f) {
  const int n_tiles = int((n_tokens + kMaxTokens - 1) / kMaxTokens);
  for (int i = 0; i < n_tiles; i++) {
    const int64_t first = i * kMaxTokens;
    const Range tokens = kFetchesPanels
                             ? split(n_tokens, i, n_tiles)
                             : Range{first, std::min<int64_t>(first + kMaxTokens, n_tokens)};
    f(i, n_tiles, tokens.begin, int(tokens.end - tokens.begin));
  }
}

// Panels of rows, and for each the tiles of tokens: calls f(rows, first token, number of tokens,
// fetch).  A row of these stands for `groups` groups of 16, each group_size bytes long.
template <class Function>
PYRO_INLINE void for_each_panel(Range rows, int64_t groups, int64_t group_size, int64_t n_tokens,
                                int64_t token_bytes, Function f) {
  const int64_t row_bytes = groups * group_size, step = std::max<int64_t>(1, kPanelStep / groups);
  int64_t length = std::max<int64_t>(1, kPanelBytes / row_bytes / step) * step;
  const bool fetches = kFetchesPanels && n_tokens >= kFetchTokens && group_size <= kPanelBytes / 2;
  if (fetches && (n_tokens <= kMaxTokens || n_tokens * token_bytes <= kSmallBatchBytes)) length = 1;
  for (int64_t begin = rows.begin; begin < rows.end; begin += length) {
    const Range panel{begin, std::min(begin + length, rows.end)};
    const int64_t n_lines = fetches && panel.end < rows.end ? group_size / 64 : 0;
    for_each_tile(n_tokens, [&](int i, int n_tiles, int64_t token, int n) {
      const Range lines = split(n_lines, i, n_tiles);
      f(panel, token, n,
        n_lines ? Fetch{length * row_bytes + 64 * lines.begin, 64 * (lines.end - lines.begin)}
                : Fetch{0, 0});
    });
  }
}

using TileFunction = void (*)(const uint8_t *weights, int64_t group_size, const uint8_t *x,
                              int64_t n_steps, Fetch fetch, float *sums, int64_t stride);

// Of one group of rows, of two, and of as many as the registers hold.
struct Tiles {
  TileFunction one, two, most;
};

// lay_out: the activations of a tile, rows[0], rows[1], ..., then zeros.
struct Format {
  int64_t (*group_bytes)(int64_t n_cols);
  int64_t step_columns;
  void (*lay_out)(uint8_t *to, const float *const *rows, int64_t n_tokens, int64_t n_cols);
  Tiles tiles[kMaxTokens];  // of 1, 2, ... tokens

  int64_t token_bytes(int64_t n_cols) const {
    return round_up(n_cols, kChunkSteps * step_columns) / step_columns * 4;
  }
  // How many tokens are laid out together: whole tiles.
  int64_t chunk(int64_t n_cols) const {
    return std::max<int64_t>(1, kScratchBytes / token_bytes(n_cols) / kMaxTokens) * kMaxTokens;
  }
};

// row(i) is where the activations of token i of the tile are.
template <class S, class Row>
void lay_out(uint8_t *to, Row row, int64_t n_tokens, int64_t n_cols) {
  constexpr int64_t kColumns = kChunkSteps * S::kColumns;
  const int m = padded(n_tokens);
  for (int64_t k = 0; k < n_cols; k += kColumns)
    for (int i = 0; i < m; i++, to += kChunkBytes)
      if (i < n_tokens)
        S::lay_out(to, row(i) + k, n_cols - k < kColumns ? n_cols - k : kColumns);
      else
        std::memset(to, 0, kChunkBytes);
}

template <class S>
void lay_out_rows(uint8_t *to, const float *const *rows, int64_t n_tokens, int64_t n_cols) {
  lay_out<S>(to, [=](int64_t i) { return rows[i]; }, n_tokens, n_cols);
}

template <class S, int N>
constexpr Tiles tiles_of() {
  constexpr int M = padded(N), G = groups_for(M);
  return {tile<S, M, 1>, tile<S, M, (G < 2 ? G : 2)>, tile<S, M, G>};
}
template <class F, class S, int... I>
constexpr Format format_of(std::integer_sequence<int, I...>) {
  return {group_bytes<F>, S::kColumns, lay_out_rows<S>, {tiles_of<S, I + 1>()...}};
}
template <class F, class S>
constexpr Format kFormat = format_of<F, S>(std::make_integer_sequence<int, kMaxTokens>());

}  // namespace values

void expert_gate_up_of(const values::Format &format, const void *args, int part, int n_parts);
void expert_down_of(const values::Format &format, const void *args, int part, int n_parts);
int64_t expert_gate_up_bytes(const values::Format &format, const void *args);  // of scratch memory
int64_t expert_down_bytes(const values::Format &format, const void *args);
