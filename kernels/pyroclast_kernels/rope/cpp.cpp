// rope_table: cosine and sine of every token's rotation angles, once per step.
// rope: rotates the query and key heads of each token in place and writes its key and value into
// the paged cache.  Pairs are (i, i + rotary_dim / 2), the half-split convention.  One token per
// item.
//
// attention/cache.py describes the cache; block_size is 32.
#include "attention/cpp/formats.h"

namespace {

struct RopeTableArgs {
  const int64_t *n_tokens;
  const int32_t *positions;
  const float *inv_freq;
  float *out;
  int64_t half_dim;
  double amplitude;
};

// out (n_tokens, 2, half_dim).  The angle is a float32 product, as the models were trained with.
void rope_table(const void *args, int part, int n_parts) {
  const RopeTableArgs &a = *static_cast<const RopeTableArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  for (int64_t t = mine.begin; t < mine.end; t++)
    for (int64_t i = 0; i < a.half_dim; i++) {
      const float angle = float(a.positions[t]) * a.inv_freq[i];
      float *out = a.out + t * 2 * a.half_dim + i;
      out[0] = float(a.amplitude * std::cos(double(angle)));
      out[a.half_dim] = float(a.amplitude * std::sin(double(angle)));
    }
}

struct RopeArgs {
  const int64_t *n_tokens;
  const int32_t *positions;
  const int32_t *seq_index;
  const int32_t *block_tables;
  const float *table;
  float *qkv;
  void *k_cache;
  void *v_cache;
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t rotary_dim;
  int64_t block_size;
  int64_t max_blocks;
  int64_t value_stride;
  double temperature;
  int64_t temperature_length;
};

void rotate(float *head, const float *cosine, const float *sine, int64_t half) {
  for (int64_t i = 0; i < half; i++) {
    const float a = head[i], b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i] + a * sine[i];
  }
}

// Queries, n values, grow with their position.
void grow(const RopeArgs &a, int64_t position, float *q, int64_t n) {
  const double steps = double(1 + position / a.temperature_length);
  const float growth = float(1 + a.temperature * std::log(steps));
  for (int64_t i = 0; i < n; i++) q[i] *= growth;
}

template <class Format>
void rope(const void *args, int part, int n_parts) {
  const RopeArgs &a = *static_cast<const RopeArgs *>(args);
  const Range mine = split(*a.n_tokens, part, n_parts);
  const int64_t half = a.rotary_dim / 2, kv_dim = a.n_kv_heads * a.head_dim;
  for (int64_t t = mine.begin; t < mine.end; t++) {
    float *q = a.qkv + t * (a.n_heads * a.head_dim + 2 * kv_dim);
    float *k = q + a.n_heads * a.head_dim, *v = k + kv_dim;
    const float *cosine = a.table + t * 2 * half, *sine = cosine + half;
    for (int64_t h = 0; h < a.n_heads + a.n_kv_heads; h++)
      rotate(q + h * a.head_dim, cosine, sine, half);
    const int64_t position = a.positions[t], slot = position % a.block_size;
    if (a.temperature > 0) grow(a, position, q, a.n_heads * a.head_dim);
    const int64_t block = a.block_tables[a.seq_index[t] * a.max_blocks + position / a.block_size];
    for (int64_t h = 0; h < a.n_kv_heads; h++) {
      const int64_t at = block * a.n_kv_heads + h;
      uint8_t *keys = (uint8_t *)a.k_cache + at * Format::key_bytes(a.head_dim);
      uint8_t *values = (uint8_t *)a.v_cache + at * Format::value_bytes(a.head_dim, a.value_stride);
      Format::write(keys, values, slot, k + h * a.head_dim, v + h * a.head_dim, a.head_dim,
                    a.value_stride);
    }
  }
}

PYRO_KERNEL("rope_table.f32", rope_table);
PYRO_KERNEL("rope.f32", rope<F32Format>);
PYRO_KERNEL("rope.f16", rope<F16Format>);
PYRO_KERNEL("rope.bf16", rope<Bf16Format>);
PYRO_KERNEL("rope.q8_0", rope<Q8Format>);

}  // namespace
