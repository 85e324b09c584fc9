// The norm of a row, which norm, residual and qk_norm share: (x - mean) / sqrt(var + eps) * weight
// + bias, with a mean of 0 for RMS norms.  Sums run in 16 float32 lanes, folded by a fixed tree.
//
// The mean of a layer norm is kept as two floats.  The first is the sum over n, whose error grows
// with the distance of the row from zero: a row of 4096 + noise would show it in every output.  The
// second is the mean of what is left after subtracting the first, so its error is relative to the
// noise.  Squares are those of the centred values.
#pragma once

#include "native/abi.h"
#include "native/simd.h"

constexpr int64_t kRmsNorm = 0, kLayerNorm = 1;

struct RowNorm {
  f32x16 mean, rest, scale;  // the same number in all lanes; mean and rest of layer norms only
};

// x with zeros from lane n on.
PYRO_INLINE f32x16 first_lanes(f32x16 x, int64_t n) {
  if (n >= kLanes) return x;
  float lanes[kLanes];
  store(lanes, x);
  return load_n(lanes, n);
}

// The mean of x - shift.
PYRO_INLINE float mean_of(const float *x, int64_t n, float shift) {
  f32x16 sum = set1(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) sum = sum + (load_n(x + i, n - i, shift) - set1(shift));
  return reduce_add(sum) / float(n);
}

template <int64_t kKind>
PYRO_INLINE f32x16 centred(const RowNorm &row, f32x16 x) {
  if constexpr (kKind == kLayerNorm) return (x - row.mean) - row.rest;
  return x;
}

template <int64_t kKind>
PYRO_INLINE RowNorm norm_of_row(const float *x, int64_t n, float eps) {
  RowNorm row = {};
  if constexpr (kKind == kLayerNorm) {
    const float mean = mean_of(x, n, 0.0f);
    row.mean = set1(mean);
    row.rest = set1(mean_of(x, n, mean));
  }
  f32x16 squares = set1(0.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const f32x16 v = first_lanes(centred<kKind>(row, load_n(x + i, n - i)), n - i);
    squares = fma(v, v, squares);
  }
  row.scale = set1(1.0f / std::sqrt(reduce_add(squares) / float(n) + eps));
  return row;
}

// Columns i .. i + 15 of the row's result; n columns are left.  bias may be null.
template <int64_t kKind>
PYRO_INLINE f32x16 normed(const RowNorm &row, const float *x, const float *weight,
                          const float *bias, int64_t i, int64_t n) {
  const f32x16 y = centred<kKind>(row, load_n(x + i, n)) * row.scale * load_n(weight + i, n);
  return bias ? y + load_n(bias + i, n) : y;
}
