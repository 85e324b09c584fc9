// $contract
// OP = "attention"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

#include "../quantize_block.h"

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  const int64_t *n_seqs;
  const int32_t *seq_starts;
  const int32_t *positions;
  const int32_t *block_tables;
  const float *qkv;
  const float *k_cache;
  const float *v_cache;
  float *out;
  Q8Block *out_q8;
  float *scratch;
  int32_t *counters;
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t block_size;
  int64_t max_blocks;
  int64_t value_stride;
  int64_t window;
  double scale;
  double softcap;
  const float *sinks;
  int64_t max_splits;
  int64_t max_split_tokens;
};

}  // namespace

extern "C" void attention_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens * a.n_heads;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t item = n * part / n_parts; item < n * (part + 1) / n_parts; item++) {
    const int64_t t = item / a.n_heads, h = item % a.n_heads, kv = h * a.n_kv_heads / a.n_heads;
    int64_t s = 0;
    while (a.seq_starts[s + 1] <= t) s++;
    const int64_t end = int64_t(a.positions[t]) + 1;
    const int64_t first = a.window > 0 && end > a.window ? end - a.window : 0;
    const float *q = a.qkv + (t * (a.n_heads + 2 * a.n_kv_heads) + h) * a.head_dim;
    // A sink is a score without a value, so it comes first.
    double best = a.sinks ? a.sinks[h] : -std::numeric_limits<double>::infinity();
    double total = a.sinks ? 1 : 0;
    double sums[512] = {0};                  // MAX_HEAD_DIM
    for (int64_t p = first; p < end; p++) {  // one pass: rescaled when the maximum rises
      const int64_t block = a.block_tables[s * a.max_blocks + p / a.block_size];
      const int64_t slot = p % a.block_size, head = block * a.n_kv_heads + kv;
      const float *k = a.k_cache + head * a.head_dim * a.block_size + slot;
      const float *v = a.v_cache + (head * a.block_size + slot) * a.value_stride;
      double score = 0;
      for (int64_t i = 0; i < a.head_dim; i++) score += double(q[i]) * k[i * a.block_size];
      score *= a.scale;
      if (a.softcap > 0) score = a.softcap * std::tanh(score / a.softcap);
      const double higher = score > best ? score : best;
      const double shrink = std::exp(best - higher), w = std::exp(score - higher);
      best = higher;
      total = total * shrink + w;
      for (int64_t i = 0; i < a.head_dim; i++) sums[i] = sums[i] * shrink + w * v[i];
    }
    float y[512];
    for (int64_t i = 0; i < a.head_dim; i++) {
      y[i] = float(sums[i] / total);
      if (a.out) a.out[item * a.head_dim + i] = y[i];
    }
    for (int64_t i = 0; a.out_q8 && i < a.head_dim; i += 32)
      quantize_block(y + i, a.out_q8[(item * a.head_dim + i) / 32]);
  }
}
