// What every product of packed weights shares, block formats (matmul.cpp) and plain values
// (values.cpp): the arguments of `matmul`, and how a finished tile reaches `out`.
#pragma once

#include "packed.h"

struct MatmulArgs {
  const int64_t *n_tokens;
  const void *x;
  const uint8_t *weight;
  const float *bias;
  float *out;
  int64_t n_rows;
  int64_t n_cols;
  int64_t out_stride;
  int64_t accumulate;
};

// out[token, 16 rows of `group`] = sum (+ bias) (+ out); rows past the last are not written.
PYRO_INLINE void store_sum(const MatmulArgs &a, int64_t group, int64_t token, f32x16 sum) {
  const int64_t row = group * kLanes, n = a.n_rows - row;
  float *out = a.out + token * a.out_stride + row;
  if (a.bias) sum = sum + load_n(a.bias + row, n);
  if (a.accumulate) sum = load_n(out, n) + sum;
  store_n(out, sum, n);
}
