// The products of experts with plain values (f32, f16, bf16): the loops of expert_products.h over
// the tiles of matmul/cpp/values.h.  See reference.py for the contracts.
#include "expert_products.h"
#include "matmul/cpp/value_format.h"
#include "native/scratch.h"

namespace {

struct Values {
  static constexpr int kMaxTokens = values::kMaxTokens;
  const values::Format &format;
  int64_t n_cols;
  int64_t size = format.group_bytes(n_cols), token_bytes = format.token_bytes(n_cols);
  ScratchMemory memory{};
  const uint8_t *x = nullptr;  // of the tile that begins with token t from t * token_bytes on

  int64_t group_bytes(int64_t) const { return size; }

  int64_t chunk(int64_t) const { return format.chunk(n_cols); }

  void gather(const void *all, const int32_t *rows, int64_t divisor, int64_t n, int64_t) {
    uint8_t *to = memory.at_least((n + kMaxTokens) * token_bytes);
    x = to;
    values::for_each_tile(n, [&](int, int, int64_t t, int n_tile) {
      const float *of_tile[kMaxTokens];
      for (int64_t i = 0; i < n_tile; i++)
        of_tile[i] = (const float *)all + rows[t + i] / divisor * n_cols;
      format.lay_out(to + t * token_bytes, of_tile, n_tile, n_cols);
    });
  }

  template <class Function>
  void for_each_panel(Range rows, int64_t groups, int64_t n, Function f) {
    values::for_each_panel(rows, groups, size, n, token_bytes, f);
  }

  int most_groups(int n, int64_t) const { return values::groups_for(values::padded(n)); }

  // A tile is computed for the next number of tokens that has a template; the rest is dropped.
  void tile(const uint8_t *weight, int64_t distance, int64_t first, int n, int n_groups,
            Fetch fetch, float *sums, int64_t stride) const {
    const values::Tiles &tiles = format.tiles[n - 1];
    const auto tile = n_groups == 1 ? tiles.one : n_groups == 2 ? tiles.two : tiles.most;
    const int64_t n_steps = (n_cols + format.step_columns - 1) / format.step_columns;
    tile(weight, distance, x + first * token_bytes, n_steps, fetch, sums, stride);
  }

  // Tiles of plain values take as many groups as they can.
  int streams_of(int64_t) const { return 1; }
  void stream_tile(const uint8_t *, Spread, int, Fetch, float *) const {}
};

// Of a chunk, and a tile that is filled up.
int64_t bytes(const values::Format &format, int64_t n_cols) {
  return (format.chunk(n_cols) + values::kMaxTokens) * format.token_bytes(n_cols);
}

}  // namespace

int64_t expert_gate_up_bytes(const values::Format &format, const void *args) {
  return bytes(format, static_cast<const ExpertGateUpArgs *>(args)->n_cols);
}

int64_t expert_down_bytes(const values::Format &format, const void *args) {
  return bytes(format, static_cast<const ExpertDownArgs *>(args)->n_cols);
}

void expert_gate_up_of(const values::Format &format, const void *args, int part, int n_parts) {
  const ExpertGateUpArgs &a = *static_cast<const ExpertGateUpArgs *>(args);
  Values tiling{format, a.n_cols};
  expert_gate_up_by(tiling, a, part, n_parts);
}

void expert_down_of(const values::Format &format, const void *args, int part, int n_parts) {
  const ExpertDownArgs &a = *static_cast<const ExpertDownArgs *>(args);
  Values tiling{format, a.n_cols};
  expert_down_by(tiling, a, part, n_parts);
}
