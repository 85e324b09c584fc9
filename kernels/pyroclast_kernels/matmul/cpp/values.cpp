// Products of packed plain values (f32, f16, bf16) with a ragged batch of tokens, float32
// activations: out[t, row] = sum over k of weight[row, k] * x[t, k].  See reference.py for the
// contract, packed.h for the layout, values.h for the tile and for the order of a sum.
//
// Loop order: chunk of tokens, whose activations are laid out in scratch -> panel of row groups
// that fits L2 -> tile of tokens -> groups -> steps.  Weights are used in the packed layout:
// converting or interleaving them in the register hides behind the products, and a panel copied to
// scratch first was slower at every number of tokens (by 40% at 16, by 3% at 512). Tails: the last
// group of rows is padded in memory and stored lane by lane; a tile with a number of tokens that
// has no template is computed as the next larger one, over zeros.
#include <algorithm>

#include "native/scratch.h"
#include "value_format.h"

namespace {

using values::groups_for;
using values::kMaxTokens;
using values::smaller;

struct Tokens {
  int64_t first, n;
  const uint8_t *x;  // laid out
  Fetch fetch;
};

// A tile of tokens against some groups, G at a time; those that remain, in smaller steps.
template <class F, class S, int M, int G = groups_for(M)>
void groups_by(const MatmulArgs &a, Tokens t, Range groups) {
  const int64_t size = group_bytes<F>(a.n_cols);
  const int64_t n_steps = (a.n_cols + S::kColumns - 1) / S::kColumns;
  alignas(64) float sums[M * G * kLanes];
  int64_t g = groups.begin;
  for (; g + G <= groups.end; g += G) {
    tile<S, M, G>(a.weight + g * size, size, t.x, n_steps, t.fetch, sums, G * kLanes);
    for (int64_t m = 0; m < t.n; m++)
      for (int i = 0; i < G; i++)
        store_sum(a, g + i, t.first + m, load(sums + (m * G + i) * kLanes));
  }
  if constexpr (G > 1)
    if (g < groups.end) groups_by<F, S, M, (G > 2 ? 2 : 1)>(a, t, {g, groups.end});
}

template <class F, class S, int M = kMaxTokens>
void groups_of(const MatmulArgs &a, Tokens t, Range groups) {
  if constexpr (M > 1)
    if (t.n <= smaller(M)) return groups_of<F, S, smaller(M)>(a, t, groups);
  groups_by<F, S, M>(a, t, groups);
}

template <class F, class S>
int64_t matmul_bytes(const void *args) {
  const values::Format &format = values::kFormat<F, S>;
  const int64_t n_cols = static_cast<const MatmulArgs *>(args)->n_cols;
  return format.chunk(n_cols) * format.token_bytes(n_cols);
}

template <class F, class S>
void matmul(const void *args, int part, int n_parts) {
  const MatmulArgs &a = *static_cast<const MatmulArgs *>(args);
  const Range mine = split((a.n_rows + kLanes - 1) / kLanes, part, n_parts);
  const values::Format &format = values::kFormat<F, S>;
  const int64_t token_bytes = format.token_bytes(a.n_cols), chunk = format.chunk(a.n_cols);
  ScratchMemory memory(round_up(std::min(chunk, *a.n_tokens), kMaxTokens) * token_bytes);
  uint8_t *x = memory.bytes();
  for (int64_t first = 0; first < *a.n_tokens; first += chunk) {
    const int64_t end = std::min(first + chunk, *a.n_tokens);
    const int64_t n = end - first;
    values::for_each_tile(n, [&](int, int, int64_t t, int n_tile) {
      const auto row = [&](int64_t i) { return (const float *)a.x + (first + t + i) * a.n_cols; };
      values::lay_out<S>(x + t * token_bytes, row, n_tile, a.n_cols);
    });
    values::for_each_panel(mine, 1, group_bytes<F>(a.n_cols), n, token_bytes,
                           [&](Range groups, int64_t t, int n_tile, Fetch fetch) {
                             const Tokens tokens{first + t, n_tile, x + t * token_bytes, fetch};
                             groups_of<F, S>(a, tokens, groups);
                           });
  }
}

template <class F, class S>
void expert_gate_up(const void *args, int part, int n_parts) {
  expert_gate_up_of(values::kFormat<F, S>, args, part, n_parts);
}

template <class F, class S>
void expert_down(const void *args, int part, int n_parts) {
  expert_down_of(values::kFormat<F, S>, args, part, n_parts);
}

template <class F, class S>
int64_t expert_gate_up_bytes(const void *args) {
  return ::expert_gate_up_bytes(values::kFormat<F, S>, args);
}

template <class F, class S>
int64_t expert_down_bytes(const void *args) {
  return ::expert_down_bytes(values::kFormat<F, S>, args);
}

// All products of a format by a step.
#define PYRO_PRODUCTS_BY(name, F, S)                                                       \
  PYRO_KERNEL("matmul." name, (matmul<F, S>), matmul_bytes<F, S>);                         \
  PYRO_KERNEL("expert_gate_up." name, (expert_gate_up<F, S>), expert_gate_up_bytes<F, S>); \
  PYRO_KERNEL("expert_down." name, (expert_down<F, S>), expert_down_bytes<F, S>)

PYRO_PRODUCTS_BY("f32", F32, FmaStep<F32>);
PYRO_PRODUCTS_BY("f16", F16, FmaStep<F16>);
PYRO_PRODUCTS_BY("bf16", BF16, FmaStep<BF16>);
#if defined(__AVX512BF16__)
PYRO_PRODUCTS_BY("bf16@avx512bf16", BF16, DotStep);
#endif

}  // namespace
