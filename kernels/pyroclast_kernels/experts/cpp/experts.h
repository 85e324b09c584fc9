// The products of experts: their arguments, and how they are shared among threads.
#pragma once

#include <algorithm>

#include "native/abi.h"

struct ExpertGateUpArgs {
  const int64_t *n_tokens;
  const void *x;
  const uint8_t *weight;
  const float *bias;
  const int32_t *order;
  const int32_t *starts;
  float *out;
  Q8Block *out_q8;
  int64_t n_experts;
  int64_t n_active;
  int64_t d_ff;
  int64_t n_cols;
  int64_t activation;
  int64_t gated;
  double limit;
  double up_offset;
};

struct ExpertDownArgs {
  const int64_t *n_tokens;
  const void *x;
  const uint8_t *weight;
  const float *bias;
  const int32_t *order;
  const int32_t *starts;
  float *out;
  int64_t n_experts;
  int64_t n_active;
  int64_t n_rows;
  int64_t n_cols;
};

// What reading a row's weights costs, in tokens' products with it.  Below it, memory decides.
constexpr int64_t kReadCost = 3;

// This part's share: calls f(expert, items) for each expert that has pairs.  An expert's n_items
// are runs of its rows.  Cut by cost, so that one crowded expert does not keep one thread busy
// alone.
template <class Function>
inline void for_each_share(const int32_t *starts, int64_t n_experts, int64_t n_items, int part,
                           int n_parts, Function f) {
  const auto cost_of = [&](int64_t e) {
    const int64_t n = starts[e + 1] - starts[e];
    return n ? n + kReadCost : 0;
  };
  int64_t total = 0, before = 0;
  for (int64_t e = 0; e < n_experts; e++) total += cost_of(e) * n_items;
  const Range mine = split(total, part, n_parts);
  // The first item that begins at `place` or later.
  const auto item_at = [&](int64_t place, int64_t cost) {
    const int64_t inside = std::max<int64_t>(0, place - before);
    return std::min(n_items, (inside + cost - 1) / cost);
  };
  for (int64_t e = 0; e < n_experts && before < mine.end; e++) {
    const int64_t cost = cost_of(e);
    if (!cost) continue;
    const Range items{item_at(mine.begin, cost), item_at(mine.end, cost)};
    if (items.begin < items.end) f(e, items);
    before += cost * n_items;
  }
}
