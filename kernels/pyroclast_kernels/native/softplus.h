// The soft threshold and the logistic function of 16 lanes: what gates of recurrent layers need.
#pragma once

#include "native/simd.h"

// 1 / (1 + e^-x), at most 4 ulp; NaN stays NaN.
PYRO_INLINE f32x16 sigmoid(f32x16 x) { return set1(1.0f) / (set1(1.0f) + exp(set1(0.0f) - x)); }

// ln(1 + e^x) = max(x, 0) + ln(1 + y), y = e^-|x|, at most 4 ulp; NaN stays NaN.
// ln(1 + y) = 2 atanh(s), s = y / (2 + y) <= 1/3: seven terms of its series leave 2^-26 of it.
PYRO_INLINE f32x16 softplus(f32x16 x) {
  const f32x16 y = exp(set1(0.0f) - abs(x)), s = y / (set1(2.0f) + y), z = s * s;
  f32x16 p = set1(1.0f / 13);
  p = fma(p, z, set1(1.0f / 11));
  p = fma(p, z, set1(1.0f / 9));
  p = fma(p, z, set1(1.0f / 7));
  p = fma(p, z, set1(1.0f / 5));
  p = fma(p, z, set1(1.0f / 3));
  p = fma(p, z, set1(1.0f));
  return max(x, set1(0.0f)) + (s + s) * p;
}
