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
//   streams_of(n)                         from how many places at once the weights of n tokens in
//                                         all are read, where more than one gains
//   stream_tile(weight, spread, n, fetch, sums)
//                                         sums of them by a group from each
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

  // 16 columns of the result from their sums, those of the gate and those of up.
  f32x16 value(const float *sums, int64_t column, int64_t n) const {
    f32x16 gate = load(sums), up = a.gated ? load(sums + kLanes) : set1(0.0f);
    if (a.bias) gate = gate + load_n(bias(0, column), n);
    if (a.bias && a.gated) up = up + load_n(bias(1, column), n);
    return expert_gated(a, gate, up);
  }

  // n columns of a block of the result.
  void finish(const float *y, int64_t block, int64_t token, int64_t n) const {
    const int64_t pair = pairs[token];
    if (a.out)
      std::memcpy(a.out + pair * a.d_ff + block * kResultBlock, y, size_t(n) * sizeof(float));
    if (a.out_q8) quantize_block(y, a.out_q8[pair * (a.d_ff / kResultBlock) + block]);
  }

  // n tokens by the 32 columns of a block of the result, or what d_ff leaves of them.
  void result_block(int64_t block, int64_t token, int n, Fetch fetch) {
    alignas(64) float y[Tiling::kMaxTokens][kResultBlock];
    alignas(64) float sums[Tiling::kMaxTokens][2 * kLanes];
    const int64_t column = block * kResultBlock;
    const int64_t n_columns = std::min(kResultBlock, a.d_ff - column);
    for (int64_t i = 0; i < n_columns; i += kLanes) {
      sums_of((column + i) / kLanes, token, n, fetch, sums);
      for (int m = 0; m < n; m++) store(y[m] + i, value(sums[m], column + i, n_columns - i));
    }
    for (int m = 0; m < n; m++) finish(y[m], block, token + m, n_columns);
  }

  // n tokens, which are all, by as many whole blocks as fill four streams, two of the gate and two
  // of up; returns the first block that is left.
  int64_t stream(Range blocks, int n, Fetch fetch) {
    const int64_t length = (std::min(blocks.end, a.d_ff / kResultBlock) - blocks.begin) / 2;
    const int64_t size = tiling.group_bytes(a.n_cols), block_groups = kResultBlock / kLanes;
    const Spread spread{half_groups * size, length * block_groups * size};
    for (int64_t block = blocks.begin; block < blocks.begin + length; block++) {
      alignas(64) float y[kStreamTokens][2][kResultBlock];
      alignas(64) float sums[kStreamTokens][2][2 * kLanes];
      for (int64_t i = 0; i < block_groups; i++) {
        const int64_t group = expert * 2 * half_groups + block * block_groups + i;
        tiling.stream_tile(a.weight + group * size, spread, n, fetch, **sums);
        for (int m = 0; m < n; m++)
          for (int far = 0; far < 2; far++) {
            const int64_t column = (block + far * length) * kResultBlock + i * kLanes;
            store(y[m][far] + i * kLanes, value(sums[m][far], column, kLanes));
          }
      }
      for (int m = 0; m < n; m++)
        for (int far = 0; far < 2; far++) finish(y[m][far], block + far * length, m, kResultBlock);
    }
    return blocks.begin + 2 * length;
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
                              int64_t block = panel.begin;
                              if (a.gated && tiling.streams_of(n) == 4)
                                block = share.stream(panel, m, fetch);
                              for (; block < panel.end; block++)
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

  const uint8_t *weight(int64_t group) const {
    return a.weight + (expert * n_groups + group) * tiling.group_bytes(a.n_cols);
  }

  // 16 rows of the result of a gathered token.
  void finish(f32x16 sum, int64_t group, int64_t token) const {
    const int64_t row = group * kLanes, left = a.n_rows - row;
    if (a.bias) sum = sum + load_n(a.bias + expert * a.n_rows + row, left);
    store_n(a.out + pairs[token] * a.n_rows + row, sum, left);
  }

  void result(int64_t group, int n_together, int64_t token, int n, Fetch fetch) {
    alignas(64) float sums[kMostSums * kLanes];
    const int64_t stride = n_together * kLanes;
    tiling.tile(weight(group), tiling.group_bytes(a.n_cols), token, n, n_together, fetch, sums,
                stride);
    for (int m = 0; m < n; m++)
      for (int g = 0; g < n_together; g++)
        finish(load(sums + m * stride + g * kLanes), group + g, token + m);
  }

  // n tokens, which are all, by as many groups as fill all streams; returns the first group that is
  // left.
  int64_t stream(int n_streams, Range groups, int n, Fetch fetch) {
    const int64_t length = (groups.end - groups.begin) / n_streams;
    const int64_t far = length * tiling.group_bytes(a.n_cols);
    alignas(64) float sums[kMostSums * kLanes];
    for (int64_t g = groups.begin; g < groups.begin + length; g++) {
      tiling.stream_tile(weight(g), Spread{far, 2 * far}, n, fetch, sums);
      for (int m = 0; m < n; m++)
        for (int i = 0; i < n_streams; i++)
          finish(load(sums + (m * n_streams + i) * kLanes), g + i * length, m);
    }
    return groups.begin + n_streams * length;
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
        const int n_streams = tiling.streams_of(n);
        int64_t g = n_streams > 1 ? share.stream(n_streams, panel, m, fetch) : panel.begin;
        for (; g + most <= panel.end; g += most) share.result(g, most, token, m, fetch);
        for (; g < panel.end; g++) share.result(g, 1, token, m, fetch);
      });
    }
  });
}
