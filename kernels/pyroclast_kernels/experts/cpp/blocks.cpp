// The products of experts with block-quantized weights: the loops of expert_products.h over the
// tiles of matmul/cpp/block_tile.h.  See reference.py for the contracts.
#include "expert_products.h"
#include "matmul/cpp/products.h"
#include "native/scratch.h"

namespace {

constexpr int64_t kChunk = 512;

int64_t bytes(int64_t n_cols) { return kChunk * (n_cols / kBlock) * int64_t(sizeof(Q8Block)); }

struct Blocks {
  static constexpr int kMaxTokens = ::kMaxTokens;
  const BlockFormat &format;
  int64_t n_cols;
  const Q8Block *x = nullptr;
  ScratchMemory memory{};

  int64_t group_bytes(int64_t) const { return size; }
  int64_t size = format.group_bytes(n_cols);

  // As many tokens as matmul has in a prompt: more would push the weights out of the caches.
  int64_t chunk(int64_t) const { return kChunk; }

  // Of one token, nothing is moved.
  void gather(const void *all, const int32_t *rows, int64_t divisor, int64_t n, int64_t) {
    const int64_t n_blocks = n_cols / kBlock;
    const Q8Block *from = (const Q8Block *)all;
    x = from + rows[0] / divisor * n_blocks;
    if (n == 1) return;
    const size_t row_bytes = size_t(n_blocks) * sizeof(Q8Block);
    uint8_t *to = memory.at_least(n * int64_t(row_bytes));
    for (int64_t i = 0; i < n; i++)
      std::memcpy(to + i * int64_t(row_bytes), from + rows[i] / divisor * n_blocks, row_bytes);
    x = (const Q8Block *)to;
  }

  template <class Function>
  void for_each_panel(Range rows, int64_t groups, int64_t n, Function f) {
    ::for_each_panel(rows, groups, size, n, n_cols, f);
  }

  int most_groups(int n, int64_t n_all) const {
    return n_all > kStreamTokens || streams_for(n_all) == 2 ? groups_for(n) : 1;
  }

  void tile(const uint8_t *weight, int64_t distance, int64_t first, int n, int n_groups,
            Fetch fetch, float *sums, int64_t stride) const {
    const Tiles &tiles = format.tiles[n - 1];
    const TileFunction tile = n_groups == 1 ? tiles.one : n_groups == 2 ? tiles.two : tiles.most;
    tile(weight, {distance, 2 * distance}, n_cols, x + first * (n_cols / kBlock), fetch, sums,
         stride);
  }

  int streams_of(int64_t n) const { return n <= kStreamTokens ? streams_for(n) : 1; }

  void stream_tile(const uint8_t *weight, Spread spread, int n, Fetch fetch, float *sums) const {
    format.tiles[n - 1].streams(weight, spread, n_cols, x, fetch, sums, streams_for(n) * kLanes);
  }
};

}  // namespace

int64_t expert_gate_up_bytes(const void *args) {
  return bytes(static_cast<const ExpertGateUpArgs *>(args)->n_cols);
}

int64_t expert_down_bytes(const void *args) {
  return bytes(static_cast<const ExpertDownArgs *>(args)->n_cols);
}

void expert_gate_up_of(const BlockFormat &format, const void *args, int part, int n_parts) {
  const ExpertGateUpArgs &a = *static_cast<const ExpertGateUpArgs *>(args);
  Blocks tiling{format, a.n_cols};
  expert_gate_up_by(tiling, a, part, n_parts);
}

void expert_down_of(const BlockFormat &format, const void *args, int part, int n_parts) {
  const ExpertDownArgs &a = *static_cast<const ExpertDownArgs *>(args);
  Blocks tiling{format, a.n_cols};
  expert_down_by(tiling, a, part, n_parts);
}
