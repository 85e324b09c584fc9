// Products of bf16 weights in matrix registers that are emulated in C++, so that every CPU tests
// the loops around the instruction: against sums that are written down as the instruction adds them
// up. Few tokens take another way, and must have the same bits; so must any split of the work.
#define PYRO_EMULATE_MATRICES
#include "matmul/cpp/bf16_matrices.cpp"

#include <cstdio>
#include <random>
#include <vector>

namespace {

int failures = 0;
std::mt19937 random_bits(7);

float to_bfloat(float x) {
  uint16_t value = 0;
  alignas(64) uint8_t rounded[2 * kMatrixColumns];
  round_columns(&x, 1, rounded);
  std::memcpy(&value, rounded, 2);
  return bfloat_to_float(value);
}

struct Weights {
  int64_t n_rows, n_cols;
  std::vector<float> values;  // [row][column]
  std::vector<uint8_t> bytes;

  Weights(int64_t rows, int64_t cols) : n_rows(rows), n_cols(cols), values(size_t(rows * cols)) {
    const int64_t size = group_bytes<BF16>(cols), n_groups = (rows + kLanes - 1) / kLanes;
    bytes.resize(size_t(size * n_groups + 64));
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < rows; row++)
      for (int64_t column = 0; column < cols; column++) {
        const float value = to_bfloat(normal(random_bits));
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        const uint16_t high = uint16_t(bits >> 16);
        values[size_t(row * cols + column)] = value;
        std::memcpy(data() + row / kLanes * size + (column * kLanes + row % kLanes) * 2, &high, 2);
      }
  }
  uint8_t *data() { return bytes.data() + (64 - uintptr_t(bytes.data()) % 64) % 64; }
};

// As the lanes do it: the baseline of x86-64 rounds twice.
float multiply_add(float a, float b, float c) {
  alignas(64) float lanes[kLanes];
  store(lanes, fma(set1(a), set1(b), set1(c)));
  return lanes[0];
}

// As the instruction adds up: 32 columns, the even ones and the odd ones apart.
float wanted(const Weights &w, int64_t row, const float *x) {
  float sum = 0;
  for (int64_t begin = 0; begin < w.n_cols; begin += kMatrixColumns) {
    float parts[2] = {0, 0};
    for (int64_t k = begin; k < std::min(begin + kMatrixColumns, w.n_cols); k++)
      parts[k % 2] =
          multiply_add(w.values[size_t(row * w.n_cols + k)], to_bfloat(x[k]), parts[k % 2]);
    sum += parts[0] + parts[1];
  }
  return sum;
}

void check(int64_t n_tokens, Weights &w, bool with_bias, bool accumulate, int n_parts) {
  std::normal_distribution<float> normal;
  const auto numbers = [&](int64_t n) {
    std::vector<float> out{};
    for (int64_t i = 0; i < n; i++) out.push_back(normal(random_bits));
    return out;
  };
  const std::vector<float> x = numbers(n_tokens * w.n_cols), bias = numbers(w.n_rows);
  const int64_t stride = w.n_rows + 3;
  const std::vector<float> before = numbers(n_tokens * stride);
  std::vector<float> out = before;
  MatmulArgs a{&n_tokens,  x.data(), w.data(), with_bias ? bias.data() : nullptr,
               out.data(), w.n_rows, w.n_cols, stride,
               accumulate};
  for (int part = n_parts; part-- > 0;) matmul(&a, part, n_parts);
  for (int64_t t = 0; t < n_tokens; t++)
    for (int64_t row = 0; row < stride; row++) {
      const float was = before[size_t(t * stride + row)];
      float value = was;  // what lies behind a row's end stays
      if (row < w.n_rows) {
        value = wanted(w, row, x.data() + t * w.n_cols);
        if (with_bias) value += bias[size_t(row)];
        if (accumulate) value = was + value;
      }
      if (value == out[size_t(t * stride + row)]) continue;
      failures++;
      std::fprintf(stderr, "%lld tokens, %lld x %lld, %d parts: token %lld, row %lld\n",
                   (long long)n_tokens, (long long)w.n_rows, (long long)w.n_cols, n_parts,
                   (long long)t, (long long)row);
      return;
    }
}

}  // namespace

int main() {
  for (const int64_t n_cols : {1, 31, 32, 33, 97})
    for (const int64_t n_rows : {1, 17, 48}) {
      Weights weights(n_rows, n_cols);
      for (const int64_t n_tokens : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 32, 33, 49})
        check(n_tokens, weights, n_tokens % 2, n_tokens % 3 == 0, int(n_tokens % 5) + 1);
    }
  Weights several_chunks(17, 33);
  check(kChunkTokens + 21, several_chunks, true, true, 2);
  Weights several_panels(16 * 23, 18 * 32);  // of up to 20 groups each
  check(33, several_panels, false, false, 1);
  Weights several_blocks(17, 2 * 18 * 32 + 1);  // of 12 and 13 times 32 columns
  for (const int64_t n_tokens : {16, 33})
    for (const bool accumulate : {false, true})
      check(n_tokens, several_blocks, accumulate, accumulate, 1);
  Weights shared(40, 33);  // among parts that have some of the tokens and some of the rows
  for (const int64_t n_tokens : {64, 96, 191, 320})
    for (const int n_parts : {2, 4, 6, 8}) check(n_tokens, shared, true, true, n_parts);
  check(kChunkTokens * 2 + 40, shared, false, false, 2);
  if (failures == 0) std::puts("ok");
  return failures != 0;
}
