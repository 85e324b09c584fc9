// The hyperbolic tangent of 16 lanes: what soft caps of scores and logits need.
#pragma once

#include "native/simd.h"

// tanh(x), at most 3 ulp: Moshier's polynomial (Cephes tanhf) where 1 - 2 / (e^2|x| + 1) would
// cancel, that form elsewhere.  NaN stays NaN.
PYRO_INLINE f32x16 tanh(f32x16 x) {
  const f32x16 one = set1(1.0f), y = abs(x), z = x * x;
  f32x16 p = set1(-5.70498872745e-3f);
  p = fma(p, z, set1(2.06390887954e-2f));
  p = fma(p, z, set1(-5.37397155531e-2f));
  p = fma(p, z, set1(1.33314422036e-1f));
  p = fma(p, z, set1(-3.33332819422e-1f));
  const f32x16 near = fma(x * z, p, x), far = one - set1(2.0f) / (exp(y + y) + one);
  f32x16 out;
  PYRO_EACH {
    const NativeF signed_far = x.v[r] < NativeF{} ? -far.v[r] : far.v[r];
    out.v[r] = y.v[r] < NativeF{} + 0.625f ? near.v[r] : signed_far;
  }
  return out;
}
