// route: the n_active best experts of each token and their gates.
// group: the pairs (token, slot) sorted by expert.
// See reference.py for the contracts.
//
// route: items are tokens.  Scores are compared as integers that sort like them, NaN on top, so
// that the order of the experts is exact; a slot takes the first of the largest that are left.
// group: one part counts, adds up and places the pairs, a few microseconds for a prompt.
#include <climits>

#include "native/abi.h"
#include "native/scratch.h"
#include "native/simd.h"

namespace {

struct RouteArgs {
  const int64_t *n_tokens;
  const float *logits;
  const float *bias;
  const float *gate_scales;
  int32_t *experts;
  float *gates;
  int64_t n_experts;
  int64_t n_active;
  int64_t scoring;
  int64_t renormalize;
  double scale;
};

constexpr int64_t kSoftmax = 0;  // of SCORINGS

// The next multiple of 16: scores have room for whole vectors.
int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// Scores of a token's logits, without the softmax's division by their sum, which is returned.
float score(const RouteArgs &a, const float *logits, float *scores) {
  if (a.scoring != kSoftmax) {
    for (int64_t i = 0; i < a.n_experts; i += kLanes) {
      const f32x16 x = load_n(logits + i, a.n_experts - i);
      store(scores + i, set1(1.0f) / (set1(1.0f) + exp(set1(0.0f) - x)));
    }
    return 1.0f;
  }
  f32x16 most = set1(-INFINITY);
  for (int64_t i = 0; i < a.n_experts; i += kLanes)
    most = max(most, load_n(logits + i, a.n_experts - i, -INFINITY));
  const f32x16 top = set1(reduce_max(most));
  f32x16 sum = set1(0.0f);
  for (int64_t i = 0; i < a.n_experts; i += kLanes) {
    const f32x16 weight = exp(load_n(logits + i, a.n_experts - i) - top);
    store(scores + i, weight);
    sum = sum + load_n(scores + i, a.n_experts - i);
  }
  return reduce_add(sum);
}

// Integers that sort as the numbers do, -0 like 0, and every NaN above them.
int32_t key_of(float x) {
  x += 0.0f;
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return x == x ? bits ^ ((bits >> 31) & 0x7fffffff) : INT_MAX;
}

// The first of the largest of n keys, which is then out of the race.
int64_t take_best(int32_t *keys, int64_t n) {
  int32_t best = INT_MIN;
  for (int64_t i = 0; i < n; i++) best = keys[i] > best ? keys[i] : best;
  int64_t at = 0;
  while (keys[at] != best) at++;
  keys[at] = INT_MIN;  // which no number has
  return at;
}

void route_token(const RouteArgs &a, int64_t token, float *scores, int32_t *keys) {
  const float *logits = a.logits + token * a.n_experts;
  const float total = score(a, logits, scores);
  for (int64_t i = 0; i < a.n_experts; i++)
    keys[i] = key_of(a.bias ? scores[i] / total + a.bias[i] : logits[i]);
  int32_t *experts = a.experts + token * a.n_active;
  float *gates = a.gates + token * a.n_active, sum = 0.0f;
  for (int64_t slot = 0; slot < a.n_active; slot++) {
    const int64_t expert = take_best(keys, a.n_experts);
    experts[slot] = int32_t(expert);
    gates[slot] = scores[expert] / total;
    sum += gates[slot];
  }
  const float divisor = a.renormalize && sum != 0.0f ? sum : 1.0f;
  for (int64_t slot = 0; slot < a.n_active; slot++) {
    const float own = a.gate_scales ? a.gate_scales[experts[slot]] : 1.0f;  // times 1 is exact
    gates[slot] = gates[slot] / divisor * float(a.scale) * own;
  }
}

int64_t scratch_bytes(const void *args) {
  return padded(static_cast<const RouteArgs *>(args)->n_experts) * int64_t(2 * sizeof(float));
}

void route(const void *args, int part, int n_parts) {
  const RouteArgs &a = *static_cast<const RouteArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  ScratchMemory memory(scratch_bytes(args));
  float *scores = reinterpret_cast<float *>(memory.bytes());
  int32_t *keys = reinterpret_cast<int32_t *>(scores + padded(a.n_experts));
  for (int64_t t = mine.begin; t < mine.end; t++) route_token(a, t, scores, keys);
}

struct GroupArgs {
  const int64_t *n_tokens;
  const int32_t *experts;
  int32_t *order;
  int32_t *starts;
  int64_t n_experts;
  int64_t n_active;
};

void group(const void *args, int part, int) {
  const GroupArgs &a = *static_cast<const GroupArgs *>(args);
  const int64_t n = *a.n_tokens * a.n_active;
  if (part != 0 || n == 0) return;
  for (int64_t e = 0; e <= a.n_experts; e++) a.starts[e] = 0;
  for (int64_t pair = 0; pair < n; pair++) a.starts[a.experts[pair] + 1]++;
  for (int64_t e = 0; e < a.n_experts; e++) a.starts[e + 1] += a.starts[e];
  // Placing moves each start to its end, which is the start of the next.
  for (int64_t pair = 0; pair < n; pair++) a.order[a.starts[a.experts[pair]]++] = int32_t(pair);
  for (int64_t e = a.n_experts; e > 0; e--) a.starts[e] = a.starts[e - 1];
  a.starts[0] = 0;
}

PYRO_KERNEL("route.f32", route, scratch_bytes);
PYRO_KERNEL("group.f32", group);

}  // namespace
