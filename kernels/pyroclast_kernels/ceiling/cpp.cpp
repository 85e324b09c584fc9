// The machine's ceilings, as kernels of the common ABI, so that the executor's own threads run
// them: a streaming read, and multiply-adds that touch registers only.
#include <algorithm>

#include "native/abi.h"
#include "native/byte_products.h"
#include "read.h"

namespace {

struct CeilingArgs {
  const uint8_t *data;
  int64_t *sink;  // one slot per part: the sum of the words read, or what keeps the work from going
  int64_t count;  // bytes to read (a multiple of 64), or rounds
  int64_t n_streams;
  int64_t distance;
  int64_t stripe;  // bytes that a part reads before it skips those of the others; 0: its own range
};

// Every byte once, by all parts together.
void read(const void *args, int part, int n_parts) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  int64_t sum = 0;
  if (a.stripe == 0) {
    const Range mine = split(a.count / kLine, part, n_parts);
    sum = read_run(a.data + mine.begin * kLine, (mine.end - mine.begin) * kLine, a.n_streams,
                   a.distance);
  } else {
    for (int64_t at = part * a.stripe; at < a.count; at += n_parts * a.stripe)
      sum += read_run(a.data + at, std::min(a.stripe, a.count - at), a.n_streams, a.distance);
  }
  a.sink[part % 64] = sum & 0xffffffff;
}

constexpr int kAccumulators = 12;  // enough chains to hide the latency of every instruction
constexpr int kInFlight = kWidth == 16 ? 12 : 6;  // that fit the registers; AVX2 takes two passes

void multiply_add(const void *args, int part, int) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  const f32x16 w = set1(float(a.data[0])), x = set1(1e-3f);
  f32x16
      acc[kInFlight];  // from memory: where all lanes are known to be equal, one register will do
#pragma GCC unroll 12
  for (int k = 0; k < kInFlight; k++) acc[k] = to_float(loadi(a.data + k * 64));
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

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
void vnni(const void *args, int part, int) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  const NativeI w = NativeI{} + a.data[0] * 0x01010101;
  i32x16 acc[kInFlight];
#pragma GCC unroll 12
  for (int k = 0; k < kInFlight; k++) acc[k] = set1i(k);
  for (int64_t i = 0; i < a.count * (kAccumulators / kInFlight); i++) {
#pragma GCC unroll 12
    for (int k = 0; k < kInFlight; k++)
      PYRO_EACH acc[k].v[r] = dot_small(acc[k].v[r], w, 0x03030303);
  }
#pragma GCC unroll 12
  for (int k = 1; k < kInFlight; k++) acc[0] = acc[0] + acc[k];
  a.sink[part % 64] = reduce_add(acc[0]);
}
PYRO_KERNEL("ceiling.vnni", vnni);
#elif defined(__SSSE3__)
// Without VNNI: sums of 8 small products in 16 bits, then one widening, as in products of 4-bit
// codes.
void int8(const void *args, int part, int) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  constexpr int kChains = 6, kRun = 8;
  NativeI w = NativeI{} + a.data[0] * 0x01010101;
  NativeI acc[kChains], pairs[kChains];
#pragma GCC unroll 6
  for (int k = 0; k < kChains; k++) acc[k] = NativeI{} + k;
  for (int64_t i = 0; i < a.count * kAccumulators * kRegs / (kChains * kRun); i++) {
#pragma GCC unroll 6
    for (int k = 0; k < kChains; k++) pairs[k] = NativeI{};
#pragma GCC unroll 8
    for (int j = 0; j < kRun; j++)
#pragma GCC unroll 6
      for (int k = 0; k < kChains; k++) {
        asm volatile("" : "+v"(w));  // or one product would do for all
        pairs[k] = add_pairs(pairs[k], dot_pairs(w, 0x03030303));
      }
#pragma GCC unroll 6
    for (int k = 0; k < kChains; k++) acc[k] = widen_pairs(acc[k], pairs[k]);
  }
#pragma GCC unroll 6
  for (int k = 1; k < kChains; k++) acc[0] += acc[k];
  a.sink[part % 64] = acc[0][0];
}
PYRO_KERNEL("ceiling.int8", int8);
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
