// Products of small matrices of bfloat16 in AMX's tile registers, of 16 rows of 64 bytes each.
//
// Of the eight registers four hold sums, two tokens and two weights: 32 tokens by 32 rows of
// weights. `multiply<T>` adds to 16 x 16 sums the products of 32 columns.  In every one of them,
// the even columns are multiplied and added from left to right, from 0 on; the odd columns
// likewise; then the two are added, and that to the sum before.  Rounding is to nearest even, and
// numbers too small for a normal float32 count as 0.  What a sum is depends on nothing else,
// whatever the number of tokens.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS.
#pragma once

#include "simd.h"

constexpr int kMatrix = 16;         // tokens of a matrix of activations, rows of one of weights
constexpr int kMatrixColumns = 32;  // of either; a token has them side by side, weights in pairs:
                                    // columns 2k and 2k + 1 of 16 rows in turn
constexpr int kMatrixBytes = kMatrix * kMatrixColumns * 2;

#if defined(__AMX_BF16__)

// Register numbers are a part of the instruction: there is one case for each.
#define PYRO_REGISTER(T, instruction, ...)               \
  do {                                                   \
    if constexpr (T == 0) instruction(0, ##__VA_ARGS__); \
    if constexpr (T == 1) instruction(1, ##__VA_ARGS__); \
    if constexpr (T == 2) instruction(2, ##__VA_ARGS__); \
    if constexpr (T == 3) instruction(3, ##__VA_ARGS__); \
  } while (false)

// This thread's registers, while the object lives: sums and tokens of n_first and n_second tokens.
class MatrixRegisters {
 public:
  MatrixRegisters(int n_first, int n_second) {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t n_rows[16] = {};
    } shapes;
    const int rows[8] = {n_first, n_first, n_second, n_second, n_first, n_second, kMatrix, kMatrix};
    for (int t = 0; t < 8; t++) {
      shapes.n_rows[t] = uint8_t(rows[t]);
      shapes.row_bytes[t] = rows[t] ? 64 : 0;
    }
    _tile_loadconfig(&shapes);
  }
  ~MatrixRegisters() { _tile_release(); }
  MatrixRegisters(const MatrixRegisters &) = delete;
  MatrixRegisters &operator=(const MatrixRegisters &) = delete;

  template <int T>
  PYRO_INLINE void clear() {
    PYRO_REGISTER(T, _tile_zero);
  }
  // Tokens of slab T, 0 or 1, or weights of group T: 64 bytes in every row.
  template <int T>
  PYRO_INLINE void load_tokens(const uint8_t *from) {
    if constexpr (T == 0) _tile_loadd(4, from, 64);
    if constexpr (T == 1) _tile_loadd(5, from, 64);
  }
  template <int T>
  PYRO_INLINE void load_weights(const uint8_t *from) {
    if constexpr (T == 0) _tile_loadd(6, from, 64);
    if constexpr (T == 1) _tile_loadd(7, from, 64);
  }
  // Sums 2 * slab + group.
  template <int T>
  PYRO_INLINE void multiply() {
    if constexpr (T == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (T == 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (T == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (T == 3) _tile_dpbf16ps(3, 5, 7);
  }
  template <int T>
  PYRO_INLINE void load_sums(const float *from, int64_t stride) {
    PYRO_REGISTER(T, _tile_loadd, from, stride * 4);
  }
  template <int T>
  PYRO_INLINE void store_sums(float *to, int64_t stride) {
    PYRO_REGISTER(T, _tile_stored, to, stride * 4);
  }
};

#elif defined(PYRO_EMULATE_MATRICES)  // for tests on any CPU; keeps small numbers

class MatrixRegisters {
 public:
  MatrixRegisters(int n_first, int n_second) : n_tokens_{n_first, n_second} {}

  template <int T>
  void clear() {
    std::memset(sums_[T], 0, sizeof sums_[T]);
  }
  template <int T>
  void load_tokens(const uint8_t *from) {
    std::memcpy(tokens_[T], from, size_t(64 * n_tokens_[T]));
  }
  template <int T>
  void load_weights(const uint8_t *from) {
    std::memcpy(weights_[T], from, kMatrixBytes);
  }
  template <int T>
  void multiply() {
    for (int m = 0; m < n_tokens_[T / 2]; m++) {
      f32x16 even = {}, odd = {};
      for (int k = 0; k < kMatrixColumns; k += 2) {
        float left[kMatrix], right[kMatrix];
        for (int row = 0; row < kMatrix; row++) {
          left[row] = bfloat_to_float(weights_[T % 2][k / 2][2 * row]);
          right[row] = bfloat_to_float(weights_[T % 2][k / 2][2 * row + 1]);
        }
        const uint16_t *x = tokens_[T / 2][m] + k;
        even = fma(load(left), set1(bfloat_to_float(x[0])), even);
        odd = fma(load(right), set1(bfloat_to_float(x[1])), odd);
      }
      store(sums_[T][m], load(sums_[T][m]) + (even + odd));
    }
  }
  template <int T>
  void load_sums(const float *from, int64_t stride) {
    for (int m = 0; m < n_tokens_[T / 2]; m++)
      std::memcpy(sums_[T][m], from + m * stride, sizeof sums_[T][m]);
  }
  template <int T>
  void store_sums(float *to, int64_t stride) {
    for (int m = 0; m < n_tokens_[T / 2]; m++)
      std::memcpy(to + m * stride, sums_[T][m], sizeof sums_[T][m]);
  }

 private:
  int n_tokens_[2];
  alignas(64) float sums_[4][kMatrix][kMatrix];
  uint16_t tokens_[2][kMatrix][kMatrixColumns], weights_[2][kMatrix][kMatrixColumns];
};

#endif
