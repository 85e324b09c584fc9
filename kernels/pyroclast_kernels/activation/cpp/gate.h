// What the gate of a gated linear unit goes through: ACTIVATIONS of activation/__init__.py.
//
// The first three are g times a share between 0 and 1, and are computed as such: 1 + tanh and
// 1 + erf would cancel for negative g.  A gate of +inf gives inf, one of -inf gives NaN (0 with
// relu and relu2), one of NaN gives NaN.
#pragma once

#include "native/simd.h"

enum Activation : int64_t { kSilu, kGeluTanh, kGelu, kRelu, kRelu2 };

// g / (1 + e^-g).
PYRO_INLINE f32x16 silu(f32x16 g) { return g / (set1(1.0f) + exp(set1(0.0f) - g)); }

// g (1 + tanh u) / 2 = g / (1 + e^-2u), u = sqrt(2 / pi) (g + 0.044715 g^3).
// -2u is rounded four times, so the error is at most 10 + 6 |u| units of 2^-23: what an error of an
// exponent does to its exponential.
PYRO_INLINE f32x16 gelu_tanh(f32x16 g) {
  const f32x16 slope = fma(g * g, set1(-0.0713548162726f), set1(-1.59576912161f));
  return g / (set1(1.0f) + exp(g * slope));
}

// g erfc(-g / sqrt 2) / 2.  With y = |g|, the tail erfc(y / sqrt 2) / 2 is e^(-y^2 / 2) t P(t),
// t = 1 / (1 + 0.35 y): the form of Hastings (Abramowitz and Stegun 7.1.26), here with a P of
// degree 8, fitted to the smallest relative error for y in [0, 13.3], 3.2e-8.  (Beyond, the
// exponential is 0.)  The error is at most 10 + y^2 / 4 units of 2^-23, the latter from y^2.
PYRO_INLINE f32x16 gelu(f32x16 g) {
  const f32x16 one = set1(1.0f), y = abs(g), t = one / fma(y, set1(0.35f), one);
  f32x16 p = set1(-0.029115023f);
  p = fma(p, t, set1(0.143818453f));
  p = fma(p, t, set1(-0.255391061f));
  p = fma(p, t, set1(0.158796638f));
  p = fma(p, t, set1(-0.0228434708f));
  p = fma(p, t, set1(0.105392166f));
  p = fma(p, t, set1(0.119863085f));
  p = fma(p, t, set1(0.13985756f));
  p = fma(p, t, set1(0.13962166f));
  const f32x16 tail = exp(set1(-0.5f) * (y * y)) * (t * p);
  f32x16 share;
  PYRO_EACH share.v[r] = g.v[r] < NativeF{} ? tail.v[r] : one.v[r] - tail.v[r];
  return g * share;
}

// -0 and NaN stay what they are.
PYRO_INLINE f32x16 relu(f32x16 g) {
  PYRO_EACH g.v[r] = g.v[r] < NativeF{} ? NativeF{} : g.v[r];
  return g;
}

PYRO_INLINE f32x16 relu2(f32x16 g) {
  g = relu(g);
  return g * g;
}

// f(gate) * up.
PYRO_INLINE f32x16 gated(int64_t activation, f32x16 gate, f32x16 up) {
  if (activation == kSilu) return silu(gate) * up;
  if (activation == kGeluTanh) return gelu_tanh(gate) * up;
  if (activation == kGelu) return gelu(gate) * up;
  return (activation == kRelu ? relu(gate) : relu2(gate)) * up;
}
