// Powers of two for the softmax of attention.
#pragma once

#include "native/simd.h"

// Coefficients of 2^r for |r| <= 1/2, fitted for the least relative error (weighted least squares
// until the peaks were level).  Degree 5: 9.2e-8, for float32 probabilities.  Degree 3: 7.5e-5, a
// twenty-sixth of the half step that rounding to bfloat16 costs.
template <int kDegree>
PYRO_INLINE f32x16 exp2_polynomial(f32x16 r) {
  if constexpr (kDegree == 5) {
    f32x16 p = set1(1.3264727e-3f);
    p = fma(p, r, set1(9.6715128e-3f));
    p = fma(p, r, set1(5.5507337e-2f));
    p = fma(p, r, set1(2.4022242e-1f));
    p = fma(p, r, set1(6.9314698e-1f));
    return fma(p, r, set1(1.0f));
  } else {
    static_assert(kDegree == 3, "coefficients of degree 3 and 5");
    f32x16 p = set1(5.5171648e-2f);
    p = fma(p, r, set1(2.4261112e-1f));
    p = fma(p, r, set1(6.9326099e-1f));
    return fma(p, r, set1(9.9992807e-1f));
  }
}

// 2^t for t <= 0 (rounding may leave it a little above); 0 below 2^-126, NaN stays NaN.
// x + magic has round(x) + 127 in its low bits: shifted, it is the power's exponent.
template <int kDegree>
PYRO_INLINE f32x16 exp2_nonpositive(f32x16 t) {
  const f32x16 magic = set1(12582912.0f + 127.0f);
  const f32x16 rounded = t + magic;
  const f32x16 p = exp2_polynomial<kDegree>(t - (rounded - magic));
  f32x16 out;
  PYRO_EACH {
    const NativeF scale = (NativeF)((NativeI)rounded.v[r] << 23);
#if defined(__AVX512F__)
    const __mmask16 kept = _mm512_cmp_ps_mask((__m512)t.v[r], _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    out.v[r] = (NativeF)_mm512_maskz_mul_ps(kept, (__m512)p.v[r], (__m512)scale);
#else
    out.v[r] = t.v[r] < -126.0f ? NativeF{} : p.v[r] * scale;
#endif
  }
  return out;
}
