// The machine's ceilings, as kernels of the common ABI, so that the executor's own threads run
// them: a streaming read, and multiply-adds that touch registers only.
#include <algorithm>

#include "../native/abi.h"
#include "../native/simd.h"

namespace {

struct CeilingArgs {
  const uint8_t *data;
  int64_t *sink;  // keeps the compiler from dropping the work; one slot per part
  int64_t count;  // bytes to read, or rounds
  int64_t n_streams;
  int64_t distance;
};

// Each part reads its own range, as n_streams runs side by side, prefetching `distance` ahead.
void read(const void *args, int part, int n_parts) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  const Range mine = split(a.count / 64, part, n_parts);
  const int64_t length = (mine.end - mine.begin) / a.n_streams * 64;
  const uint8_t *start = a.data + mine.begin * 64;
  i32x16 sum[8];
  for (i32x16 &s : sum) s = set1i(0);
  for (int64_t i = 0; i < length; i += 64)
    for (int64_t s = 0; s < a.n_streams; s++) {
      const uint8_t *p = start + s * length + i;
      if (a.distance) __builtin_prefetch(p + a.distance);
      sum[s % 8] = sum[s % 8] ^ loadi(p);
    }
  for (int s = 1; s < 8; s++) sum[0] = sum[0] ^ sum[s];
  int64_t kept;
  std::memcpy(&kept, &sum[0], sizeof kept);
  a.sink[part % 64] = kept;
}

constexpr int kAccumulators = 12;  // enough chains to hide the latency of every instruction
constexpr int kInFlight = kWidth == 16 ? 12 : 6;  // that fit the registers; AVX2 takes two turns

void multiply_add(const void *args, int part, int) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  const f32x16 w = set1(float(a.data[0])), x = set1(1e-3f);
  f32x16 acc[kInFlight];
#pragma GCC unroll 12
  for (int k = 0; k < kInFlight; k++) acc[k] = set1(float(k));
  for (int64_t i = 0; i < a.count * (kAccumulators / kInFlight); i++) {
#pragma GCC unroll 12
    for (int k = 0; k < kInFlight; k++) acc[k] = fma(w, x, acc[k]);
  }
#pragma GCC unroll 12
  for (int k = 1; k < kInFlight; k++) acc[0] = acc[0] + acc[k];
  a.sink[part % 64] = int64_t(reduce_add(acc[0]));
}
PYRO_KERNEL("ceiling.read", read);
PYRO_KERNEL("ceiling.fma", multiply_add);

#if defined(__AVX512VNNI__)
void vnni(const void *args, int part, int) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  __m512i acc[kAccumulators], w = _mm512_set1_epi8(char(a.data[0])), x = _mm512_set1_epi8(3);
#pragma GCC unroll 12
  for (int k = 0; k < kAccumulators; k++) acc[k] = _mm512_set1_epi32(k);
  for (int64_t i = 0; i < a.count; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < kAccumulators; k++) acc[k] = _mm512_dpbusd_epi32(acc[k], w, x);
  }
#pragma GCC unroll 12
  for (int k = 1; k < kAccumulators; k++) acc[0] = _mm512_add_epi32(acc[0], acc[k]);
  a.sink[part % 64] = _mm512_reduce_add_epi32(acc[0]);
}
PYRO_KERNEL("ceiling.vnni", vnni);
#endif

#if defined(__AVX512BF16__)
void bf16(const void *args, int part, int) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  __m512bh w = (__m512bh)_mm512_set1_epi16(0x3f80 + a.data[0]);
  __m512 acc[kAccumulators];
#pragma GCC unroll 12
  for (int k = 0; k < kAccumulators; k++) acc[k] = _mm512_set1_ps(float(k));
  for (int64_t i = 0; i < a.count; i++) {
#pragma GCC unroll 12
    for (int k = 0; k < kAccumulators; k++) acc[k] = _mm512_dpbf16_ps(acc[k], w, w);
  }
#pragma GCC unroll 12
  for (int k = 1; k < kAccumulators; k++) acc[0] = _mm512_add_ps(acc[0], acc[k]);
  a.sink[part % 64] = int64_t(_mm512_reduce_add_ps(acc[0]));
}
PYRO_KERNEL("ceiling.bf16", bf16);
#endif

}  // namespace
