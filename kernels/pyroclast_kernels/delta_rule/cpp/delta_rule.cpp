// delta_rule: the gated delta rule, token by token.  See reference.py for the contract.
//
// Columns of a head's state do not mix, so items are tiles of 32 columns of a head of a sequence:
// 16 KiB at k_dim 128, which stay in the L1 cache over a prompt.  A token needs k S before it can
// update S, and q S after.  One pass does it all: while S is updated for token t, the updated rows
// also give q S of t and k S of t + 1.  Only a step's first token reads S once more before.  Each
// sum runs over the rows of S from the first to the last in one lane, so it does not matter which
// of the two passes makes it, nor where a prompt is cut.
#include "native/softplus.h"
#include "tile.h"

namespace {

struct DeltaRuleArgs {
  const int64_t *n_seqs;
  const int32_t *seq_starts;
  const int32_t *slots_in;
  const int32_t *slots_out;
  const float *qkv;
  const float *alpha;
  const float *beta;
  const float *a;
  const float *dt_bias;
  float *state;
  float *out;
  int64_t n_k_heads;
  int64_t n_v_heads;
  int64_t k_dim;
  int64_t v_dim;
  int64_t gate_stride;
  int64_t tiled;

  States states() const { return {state, n_v_heads, k_dim, v_dim}; }
  int64_t k_head(int64_t head) const {
    return tiled ? head % n_k_heads : head / (n_v_heads / n_k_heads);
  }
};

// The decay of the state and the step towards v, of the 16 tokens from t on (end: their end).
struct Gates {
  alignas(64) float decay[kLanes], step[kLanes];
};
PYRO_INLINE Gates gates_of(const DeltaRuleArgs &a, int64_t head, int64_t t, int64_t end) {
  float alpha[kLanes] = {}, beta[kLanes] = {};
  for (int64_t i = 0; i < std::min<int64_t>(kLanes, end - t); i++) {
    alpha[i] = a.alpha[(t + i) * a.gate_stride + head];
    beta[i] = a.beta[(t + i) * a.gate_stride + head];
  }
  Gates gates;
  const f32x16 dt = softplus(load(alpha) + set1(a.dt_bias[head]));
  store(gates.decay, exp(set1(a.a[head]) * dt));
  store(gates.step, sigmoid(load(beta)));
  return gates;
}

PYRO_INLINE Columns key_sums(const float *s, const float *k, int64_t k_dim) {
  Columns sums = {};
  for (int64_t i = 0; i < k_dim; i++) {
    const Columns row = load_columns(s + i * kTile);
    for (int j = 0; j < 2; j++) sums.v[j] = fma(set1(k[i]), row.v[j], sums.v[j]);
  }
  return sums;
}

void run(const DeltaRuleArgs &a, int64_t seq, int64_t head, int64_t tile) {
  const int64_t begin = a.seq_starts[seq], end = a.seq_starts[seq + 1];
  if (begin == end) return;
  const int64_t key_columns = a.n_k_heads * a.k_dim, column = tile * kTile;
  const int64_t n = a.v_dim - column, columns = 2 * key_columns + a.n_v_heads * a.v_dim;
  const float *q = a.qkv + begin * columns + a.k_head(head) * a.k_dim;
  const float *v = a.qkv + begin * columns + 2 * key_columns + head * a.v_dim + column;
  Walk walk = {a.states(), a.slots_out, head, tile, end};
  walk.start(begin, a.slots_in[seq]);
  Columns sums = key_sums(walk.from, q + key_columns, a.k_dim);
  Gates gates;
  for (int64_t t = begin; t < end; t++, q += columns, v += columns) {
    const int lane = int((t - begin) % kLanes);
    if (lane == 0) gates = gates_of(a, head, t, end);
    if (t + kAhead < end) {
      prefetch(q + kAhead * columns, a.k_dim);
      prefetch(q + kAhead * columns + key_columns, a.k_dim);
      prefetch(v + kAhead * columns, kTile);
    }
    const f32x16 decay = set1(gates.decay[lane]), step = set1(gates.step[lane]);
    Columns delta = {load_n(v, n), load_n(v + kLanes, n - kLanes)};
    for (int j = 0; j < 2; j++) delta.v[j] = step * (delta.v[j] - decay * sums.v[j]);
    const float *k = q + key_columns, *next_k = k + columns;
    const Columns out =
        t + 1 < end ? update<true>(walk.from, walk.to, q, k, next_k, a.k_dim, decay, delta, sums)
                    : update<false>(walk.from, walk.to, q, k, nullptr, a.k_dim, decay, delta, sums);
    float *y = a.out + (t * a.n_v_heads + head) * a.v_dim + column;
    store_n(y, out.v[0], n);
    store_n(y + kLanes, out.v[1], n - kLanes);
    walk.pass(t);
  }
}

void delta_rule(const void *args, int part, int n_parts) {
  const DeltaRuleArgs &a = *static_cast<const DeltaRuleArgs *>(args);
  const int64_t n_tiles = a.states().n_tiles();
  const Range mine = split(*a.n_seqs * a.n_v_heads * n_tiles, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t head = item / n_tiles;
    run(a, head / a.n_v_heads, head % a.n_v_heads, item % n_tiles);
  }
}

PYRO_KERNEL("delta_rule.f32", delta_rule);

}  // namespace
