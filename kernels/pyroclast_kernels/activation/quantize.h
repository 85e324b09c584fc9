// Activations to 8 bits, 32 at a time: the epilogue of norm, swiglu and attention.
#pragma once

#include "../native/abi.h"
#include "../native/simd.h"

// values[i] = round(x[i] / scale) to nearest even, scale = max|x| / 127.  A NaN or an infinity
// anywhere in the block makes the scale NaN, so that it reaches the logits and is noticed there.
PYRO_INLINE void quantize_block(const float *x, Q8Block &out) {
  const f32x16 raw_a = load(x), raw_b = load(x + kLanes);
  const f32x16 a = finite_or_zero(raw_a), b = finite_or_zero(raw_b);
  const f32x16 poison = raw_a * set1(0.0f) + raw_b * set1(0.0f);  // 0, or NaN
  const float largest = reduce_max(max(abs(a), abs(b)));
  const float scale = largest / 127.0f;
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  const i32x16 qa = to_int(round_even(a * set1(inverse)));
  const i32x16 qb = to_int(round_even(b * set1(inverse)));
  store_bytes(out.values, qa);
  store_bytes(out.values + kLanes, qb);
  const int32_t first = reduce_add(qa), last = reduce_add(qb), sum = first + last;
  out.scale = scale + reduce_add(poison);
  out.sum_scaled = out.scale * float(sum);
  out.minus_8_sum = -8 * sum;
  out.minus_128_sum = -128 * sum;
  out.half_scaled[0] = out.scale * float(first);
  out.half_scaled[1] = out.scale * float(last);
}

PYRO_INLINE void quantize_row(const float *x, int64_t n, Q8Block *out) {
  for (int64_t b = 0; b < n / 32; b++) quantize_block(x + 32 * b, out[b]);
}
