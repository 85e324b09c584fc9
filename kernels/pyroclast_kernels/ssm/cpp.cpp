// ssm: the state space model of Mamba 2, token by token.  See reference.py for the contract.
//
// As in delta_rule, items are tiles of 32 columns of a head of a sequence, whose sums run over the
// rows of the state from the first to the last.
#include "delta_rule/cpp/tile.h"
#include "native/softplus.h"

namespace {

struct SsmArgs {
  const int64_t *n_seqs;
  const int32_t *seq_starts;
  const int32_t *slots_in;
  const int32_t *slots_out;
  const float *xbc;
  const float *dt;
  const float *a;
  const float *d;
  const float *dt_bias;
  float *state;
  float *out;
  int64_t n_heads;
  int64_t head_dim;
  int64_t n_groups;
  int64_t d_state;
  int64_t dt_stride;
  double dt_min;
  double dt_max;

  States states() const { return {state, n_heads, d_state, head_dim}; }
};

// The step of a head, in all lanes; a NaN passes both limits.
PYRO_INLINE f32x16 step_of(const SsmArgs &a, int64_t t, int64_t head) {
  const f32x16 step = softplus(set1(a.dt[t * a.dt_stride + head] + a.dt_bias[head]));
  return min(set1(float(a.dt_max)), max(set1(float(a.dt_min)), step));
}

void run(const SsmArgs &a, int64_t seq, int64_t head, int64_t tile) {
  const int64_t begin = a.seq_starts[seq], end = a.seq_starts[seq + 1];
  if (begin == end) return;
  const int64_t x_columns = a.n_heads * a.head_dim, column = tile * kTile;
  const int64_t n = a.head_dim - column, columns = x_columns + 2 * a.n_groups * a.d_state;
  const int64_t group = head / (a.n_heads / a.n_groups);
  const float *x = a.xbc + begin * columns + head * a.head_dim + column;
  const float *b = a.xbc + begin * columns + x_columns + group * a.d_state;
  Walk walk = {a.states(), a.slots_out, head, tile, end};
  walk.start(begin, a.slots_in[seq]);
  const f32x16 rate = set1(a.a[head]), skip = set1(a.d[head]);
  for (int64_t t = begin; t < end; t++, x += columns, b += columns) {
    const float *c = b + a.n_groups * a.d_state;
    if (t + kAhead < end) {
      prefetch(b + kAhead * columns, a.d_state);
      prefetch(c + kAhead * columns, a.d_state);
      prefetch(x + kAhead * columns, kTile);
    }
    const f32x16 step = step_of(a, t, head);
    const Columns value = {load_n(x, n), load_n(x + kLanes, n - kLanes)};
    const Columns delta = {step * value.v[0], step * value.v[1]};
    Columns unused;
    const Columns out = update<false>(walk.from, walk.to, c, b, nullptr, a.d_state,
                                      exp(rate * step), delta, unused);
    float *y = a.out + t * x_columns + head * a.head_dim + column;
    store_n(y, fma(skip, value.v[0], out.v[0]), n);
    store_n(y + kLanes, fma(skip, value.v[1], out.v[1]), n - kLanes);
    walk.pass(t);
  }
}

void ssm(const void *args, int part, int n_parts) {
  const SsmArgs &a = *static_cast<const SsmArgs *>(args);
  const int64_t n_tiles = a.states().n_tiles();
  const Range mine = split(*a.n_seqs * a.n_heads * n_tiles, part, n_parts);
  for (int64_t item = mine.begin; item < mine.end; item++) {
    const int64_t head = item / n_tiles;
    run(a, head / a.n_heads, head % a.n_heads, item % n_tiles);
  }
}

PYRO_KERNEL("ssm.f32", ssm);

}  // namespace
