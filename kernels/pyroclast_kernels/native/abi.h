// The C ABI of every compiled CPU kernel, and how a C++ kernel announces itself.
//
//   void kernel(const void *args, int part, int n_parts);
//
// `args` points to a struct whose every field is 8 bytes wide: a pointer, an int64_t or a double,
// in the order of the parameters of the op's NumPy reference (tests/kernels/test_abi.py compares
// the two). Sizes that vary from step to step (tokens, sequences) are read through pointers, so a
// recorded step is replayed without touching the structs.  The executor splits an op into n_parts
// and any thread may run any part, each exactly once; the bits of the result must not depend on
// n_parts.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

using Kernel = void (*)(const void *args, int part, int n_parts);

// Activations of one block of 32 values, quantized to 8 bits: x[i] ~= scale * values[i].
// The sums let a kernel cancel the offset of unsigned weights, or add a minimum, without a second
// pass: sum_scaled = scale * sum(values), half_scaled the same of the first and the last 16 values;
// minus_8_sum, minus_128_sum and, of each half, minus_4_half_sum start an integer accumulator.
struct Q8Block {
  float scale;
  float sum_scaled;
  int32_t minus_8_sum;
  int32_t minus_128_sum;
  int8_t values[32];
  float half_scaled[2];
  int32_t minus_4_half_sum[2];
};
static_assert(sizeof(Q8Block) == 64, "q8_blocks.py mirrors this struct");

struct KernelEntry {
  const char *name;  // "op.format", for instance "matmul.q8_0"; "op.format@variant" for a kernel
                     // that this level has beside its own (CPP_VARIANTS of the op's folder)
  Kernel function;
  // How much of native/scratch.h a call with these arguments takes; null: nothing.
  int64_t (*scratch_bytes)(const void *args) = nullptr;
};

inline std::vector<KernelEntry> &kernel_table() {
  static std::vector<KernelEntry> table;
  return table;
}

struct RegisterKernel {
  RegisterKernel(const char *name, Kernel function,
                 int64_t (*scratch_bytes)(const void *) = nullptr) {
    kernel_table().push_back({name, function, scratch_bytes});
  }
};

#define PYRO_JOIN2(a, b) a##b
#define PYRO_JOIN(a, b) PYRO_JOIN2(a, b)
// PYRO_KERNEL(name, function) or PYRO_KERNEL(name, function, scratch_bytes).
#define PYRO_KERNEL(name, ...) \
  static const RegisterKernel PYRO_JOIN(registered_, __COUNTER__) { name, __VA_ARGS__ }

// The half-open range of items that part `part` of `n_parts` handles: contiguous, and balanced.
struct Range {
  int64_t begin, end;
};
inline Range split(int64_t n_items, int part, int n_parts) {
  return {n_items * part / n_parts, n_items * (part + 1) / n_parts};
}
