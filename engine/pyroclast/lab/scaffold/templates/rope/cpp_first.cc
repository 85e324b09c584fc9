// $contract
// OP = "rope"
// FORMATS = ("f32",)

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {
  const int64_t *n_tokens;
  const int32_t *positions;
  const int32_t *seq_index;
  const int32_t *block_tables;
  const float *table;
  float *qkv;
  float *k_cache;
  float *v_cache;
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

}  // namespace

extern "C" void rope_f32(const void *args, int part, int n_parts) {
  const Args &a = *static_cast<const Args *>(args);
  const int64_t n = *a.n_tokens;
  // This part's share; the others run at the same time, on other threads.
  for (int64_t t = n * part / n_parts; t < n * (part + 1) / n_parts; t++) {
    const int64_t half = a.rotary_dim / 2;
    float *q = a.qkv + t * (a.n_heads + 2 * a.n_kv_heads) * a.head_dim;
    const float *cosine = a.table + t * 2 * half, *sine = cosine + half;
    for (int64_t h = 0; h < a.n_heads + a.n_kv_heads; h++)
      for (int64_t i = 0; i < half; i++) {
        float *low = q + h * a.head_dim + i, *high = low + half;
        const float x = *low, y = *high;
        *low = x * cosine[i] - y * sine[i];
        *high = y * cosine[i] + x * sine[i];
      }
    const int64_t position = a.positions[t], slot = position % a.block_size;
    if (a.temperature > 0) {
      const double steps = double(1 + position / a.temperature_length);
      const float growth = float(1 + a.temperature * std::log(steps));
      for (int64_t i = 0; i < a.n_heads * a.head_dim; i++) q[i] *= growth;
    }
    const int64_t entry = a.seq_index[t] * a.max_blocks + position / a.block_size;
    const int64_t block = a.block_tables[entry];
    for (int64_t h = 0; h < a.n_kv_heads; h++)
      for (int64_t i = 0; i < a.head_dim; i++) {
        const float *k = q + (a.n_heads + h) * a.head_dim, *v = k + a.n_kv_heads * a.head_dim;
        const int64_t head = block * a.n_kv_heads + h;
        a.k_cache[(head * a.head_dim + i) * a.block_size + slot] = k[i];
        a.v_cache[(head * a.block_size + slot) * a.value_stride + i] = v[i];
      }
  }
}
