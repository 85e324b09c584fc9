// expert_gate_up and expert_down over tiles of any kind.  See reference.py for the contracts.
//
// Loop order: expert -> chunk of its tokens, whose activations are gathered side by side -> panel
// of rows that fits L2 -> tile of tokens -> group of 16 rows.  The tiles, and so the bits, are
// those of matmul; a token's sums do not depend on who else chose its expert.
//
// `Tiling` is Blocks of blocks.cpp or Values of values.cpp:
//   group_bytes(n_cols)                   of 16 rows of weights
//   gather(x, rows, divisor, n, n_cols)   n activations, of the rows rows[i] / divisor, for tiles
//   for_each_panel(rows, groups, n, f)    f(rows, first token, tokens, fetch); a row is `groups`
//                                         groups of 16
//   tile(weight, distance, first, n, n_groups, fetch, sums, stride)
//                                         sums of n gathered tokens by groups that lie distance
//                                         apart
//   most_groups(n, n_all)                 how many a tile of n of n_all tokens takes at once
#pragma once

#include "activation/cpp/gate.h"
#include "activation/cpp/quantize.h"
#include "experts.h"
#include "matmul/cpp/block_tile.h"

constexpr int64_t kResultBlock = 32;
constexpr int kMostSums = 24;  // of a tile, in groups of 16

enum ExpertActivation : int64_t { kQuickGelu = kRelu2 + 1 };

// g / (1 + e^-1.702g).
PYRO_INLINE f32x16 quick_gelu(f32x16 g) { return g / (set1(1.0f) + exp(set1(-1.702f) * g)); }

// At most `limit`; a NaN stays one.
PYRO_INLINE f32x16 at_most(f32x16 x, f32x16 limit) {
  PYRO_EACH x.v[r] = x.v[r] > limit.v[r] ? limit.v[r] : x.v[r];
  return x;
}

// f(gate) * (up + up_offset) of clamped gate and up; with gated 0, f(gate).
PYRO_INLINE f32x16 expert_gated(const ExpertGateUpArgs &a, f32x16 gate, f32x16 up) {
  if (a.limit > 0) {
    const f32x16 limit = set1(float(a.limit)), zero = set1(0.0f);
    gate = at_most(gate, limit);
    up = zero - at_most(zero - at_most(up, limit), limit);
  }
  if (a.up_offset != 0) up = up + set1(float(a.up_offset));
  if (!a.gated) up = set1(1.0f);
  return a.activation == kQuickGelu ? quick_gelu(gate) * up : gated(a.activation, gate, up);
}

// One expert's share of expert_gate_up.
template <class Tiling>
struct GateUp {
  const ExpertGateUpArgs &a;
  Tiling &tiling;
  int64_t expert, half_groups;  // groups of the gate, and of up
  const int32_t *pairs;         // of the gathered tokens
  int64_t n_pairs;

  const float *bias(int64_t half, int64_t column) const {
    return a.bias + (expert * (1 + a.gated) + half) * a.d_ff + column;
  }

  // The sums of n tokens by the gate and the up rows of one group, side by side.
  void sums_of(int64_t group, int64_t token, int n, Fetch fetch, float (*sums)[2 * kLanes]) {
    const int64_t size = tiling.group_bytes(a.n_cols), distance = half_groups * size;
    const uint8_t *gate = a.weight + (expert * (1 + a.gated) * half_groups + group) * size;
    if (a.gated && tiling.most_groups(n, n_pairs) >= 2)
      return tiling.tile(gate, distance, token, n, 2, fetch, *sums, 2 * kLanes);
    for (int64_t half = 0; half <= a.gated; half++)
      tiling.tile(gate + half * distance, distance, token, n, 1, fetch, *sums + half * kLanes,
                  2 * kLanes);
  }

  // n tokens by the 32 columns of a block of the result, or what d_ff leaves of them.
  void result_block(int64_t block, int64_t token, int n, Fetch fetch) {
    alignas(64) float y[Tiling::kMaxTokens][kResultBlock];
    alignas(64) float sums[Tiling::kMaxTokens][2 * kLanes];
    const int64_t column = block * kResultBlock;
    const int64_t n_columns = std::min(kResultBlock, a.d_ff - column);
    for (int64_t i = 0; i < n_columns; i += kLanes) {
      sums_of((column + i) / kLanes, token, n, fetch, sums);
      for (int m = 0; m < n; m++) {
        f32x16 gate = load(sums[m]), up = a.gated ? load(sums[m] + kLanes) : set1(0.0f);
        if (a.bias) gate = gate + load_n(bias(0, column + i), n_columns - i);
        if (a.bias && a.gated) up = up + load_n(bias(1, column + i), n_columns - i);
        store(y[m] + i, expert_gated(a, gate, up));
      }
    }
    for (int m = 0; m < n; m++) {
      const int64_t pair = pairs[token + m];
      if (a.out)
        std::memcpy(a.out + pair * a.d_ff + column, y[m], size_t(n_columns) * sizeof(float));
      if (a.out_q8) quantize_block(y[m], a.out_q8[pair * (a.d_ff / kResultBlock) + block]);
    }
  }
};

template <class Tiling>
void expert_gate_up_by(Tiling &tiling, const ExpertGateUpArgs &a, int part, int n_parts) {
  if (*a.n_tokens == 0) return;
  const int64_t half_groups = (a.d_ff + kLanes - 1) / kLanes;
  const int64_t n_blocks = (a.d_ff + kResultBlock - 1) / kResultBlock;
  for_each_share(a.starts, a.n_experts, n_blocks, part, n_parts, [&](int64_t expert, Range blocks) {
    const int64_t end = a.starts[expert + 1], chunk = tiling.chunk(a.n_cols);
    for (int64_t first = a.starts[expert]; first < end; first += chunk) {
      const int64_t n = std::min(chunk, end - first);
      tiling.gather(a.x, a.order + first, a.n_active, n, a.n_cols);
      GateUp<Tiling> share{a, tiling, expert, half_groups, a.order + first, n};
      tiling.for_each_panel(blocks, kResultBlock / kLanes, n,
                            [&](Range panel, int64_t token, int m, Fetch fetch) {
                              for (int64_t block = panel.begin; block < panel.end; block++)
                                share.result_block(block, token, m, fetch);
                            });
    }
  });
}

// One expert's share of expert_down.
template <class Tiling>
struct Down {
  const ExpertDownArgs &a;
  Tiling &tiling;
  int64_t expert, n_groups;  // groups of an expert
  const int32_t *pairs;

  void result(int64_t group, int n_together, int64_t token, int n, Fetch fetch) {
    alignas(64) float sums[kMostSums * kLanes];
    const int64_t size = tiling.group_bytes(a.n_cols), stride = n_together * kLanes;
    const uint8_t *weight = a.weight + (expert * n_groups + group) * size;
    tiling.tile(weight, size, token, n, n_together, fetch, sums, stride);
    for (int m = 0; m < n; m++)
      for (int g = 0; g < n_together; g++) {
        const int64_t row = (group + g) * kLanes, left = a.n_rows - row;
        f32x16 sum = load(sums + m * stride + g * kLanes);
        if (a.bias) sum = sum + load_n(a.bias + expert * a.n_rows + row, left);
        store_n(a.out + pairs[token + m] * a.n_rows + row, sum, left);
      }
  }
};

template <class Tiling>
void expert_down_by(Tiling &tiling, const ExpertDownArgs &a, int part, int n_parts) {
  if (*a.n_tokens == 0) return;
  const int64_t n_groups = (a.n_rows + kLanes - 1) / kLanes;
  for_each_share(a.starts, a.n_experts, n_groups, part, n_parts, [&](int64_t expert, Range groups) {
    const int64_t end = a.starts[expert + 1], chunk = tiling.chunk(a.n_cols);
    for (int64_t first = a.starts[expert]; first < end; first += chunk) {
      const int64_t n = std::min(chunk, end - first);
      tiling.gather(a.x, a.order + first, 1, n, a.n_cols);
      Down<Tiling> share{a, tiling, expert, n_groups, a.order + first};
      tiling.for_each_panel(groups, 1, n, [&](Range panel, int64_t token, int m, Fetch fetch) {
        const int most = tiling.most_groups(m, n);
        int64_t g = panel.begin;
        for (; g + most <= panel.end; g += most) share.result(g, most, token, m, fetch);
        for (; g < panel.end; g++) share.result(g, 1, token, m, fetch);
      });
    }
  });
}
