// What simd.h and the kernels need of NEON, the vector unit of every aarch64 CPU: registers of four
// lanes, 32 of them, and a fused multiply-add.
//
// Two levels have more: `dotprod` sums four products of signed bytes in an instruction (SDOT), and
// `i8mm` of unsigned by signed bytes (USDOT).  Sums of bytes are exact, so all levels give the same
// bits; floats are computed in AVX2's order with AVX2's roundings.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#define PYRO_NEON inline __attribute__((always_inline))

namespace neon {

// ---- 16-bit floats: every aarch64 converts them, to nearest even, and keeps denormals -----------

PYRO_NEON float half_to_float(uint16_t h) {
  __fp16 half;
  std::memcpy(&half, &h, sizeof half);
  return half;
}
PYRO_NEON uint16_t float_to_half(float f) {
  const __fp16 half = __fp16(f);
  uint16_t h;
  std::memcpy(&h, &half, sizeof h);
  return h;
}
PYRO_NEON float32x4_t load_half(const uint16_t *p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
PYRO_NEON void store_half(uint16_t *p, float32x4_t x) {
  vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x)));
}

// ---- sixteen lanes to one, to bytes, to bits ----------------------------------------------------

// The last two steps of the tree of simd.h: 2 + 2, then 1 + 1.
PYRO_NEON float fold_add(float32x4_t x) {
  return vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)));
}

// The low bytes of 16 lanes.
PYRO_NEON int8x16_t narrow(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
  const int16x8_t high = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
  return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

// Bit i is the sign of byte i, of bytes that are all ones or all zeros.
PYRO_NEON uint32_t bits_of(int8x16_t bytes) {
  const uint8x16_t weights = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t bits = vandq_u8(vreinterpretq_u8_s8(bytes), weights);
  return uint32_t(vaddv_u8(vget_low_u8(bits))) | uint32_t(vaddv_u8(vget_high_u8(bits))) << 8;
}

// Four bytes, each extended to a lane.
template <bool kSigned>
PYRO_NEON int32x4_t load_bytes(const uint8_t *p) {
  uint32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  const uint8x8_t eight = vreinterpret_u8_u32(vdup_n_u32(bytes));
  if (kSigned) return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(eight))));
  return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(eight))));
}

// ---- products -----------------------------------------------------------------------------------

// acc + a.even * b.even + a.odd * b.odd of int16 pairs.
PYRO_NEON int32x4_t dot_words(int32x4_t acc, int16x8_t a, int16x8_t b) {
  const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
  return vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(a, b)));
}

#if defined(__ARM_FEATURE_DOTPROD)
// A quad of a token: lane `lane` of 16 activations.  The product takes it from there, so 16 of them
// cost one load and no broadcast.
struct Quad {
  int8x16_t sixteen;
  int lane;
};
PYRO_NEON Quad load_quad(const int8_t *values, int k) {
  return {vld1q_s8(values + 16 * (k / 4)), k % 4};
}

// acc[lane] += sum over 4 bytes of w[lane][j] * x[j], both signed.
PYRO_NEON int32x4_t dot(int32x4_t acc, int8x16_t w, Quad x) {
  switch (x.lane) {  // known once the caller's loop is unrolled; an instruction has it fixed
    case 0:
      return vdotq_laneq_s32(acc, w, x.sixteen, 0);
    case 1:
      return vdotq_laneq_s32(acc, w, x.sixteen, 1);
    case 2:
      return vdotq_laneq_s32(acc, w, x.sixteen, 2);
    default:
      return vdotq_laneq_s32(acc, w, x.sixteen, 3);
  }
}
#else
using Quad = int8x16_t;  // in every lane
PYRO_NEON Quad load_quad(const int8_t *values, int k) {
  int32_t quad;
  std::memcpy(&quad, values + 4 * k, sizeof quad);
  return vreinterpretq_s8_s32(vdupq_n_s32(quad));
}
// |w * x| <= 128 * 127, so two products fit 16 bits.
PYRO_NEON int32x4_t dot(int32x4_t acc, int8x16_t w, Quad x) {
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
  return vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)));
}
#endif

#if defined(__ARM_FEATURE_MATMUL_INT8)
// The same for unsigned w.
PYRO_NEON int32x4_t dot_unsigned(int32x4_t acc, uint8x16_t w, Quad x) {
  switch (x.lane) {
    case 0:
      return vusdotq_laneq_s32(acc, w, x.sixteen, 0);
    case 1:
      return vusdotq_laneq_s32(acc, w, x.sixteen, 1);
    case 2:
      return vusdotq_laneq_s32(acc, w, x.sixteen, 2);
    default:
      return vusdotq_laneq_s32(acc, w, x.sixteen, 3);
  }
}
#endif

}  // namespace neon
