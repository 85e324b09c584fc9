// The most that matrix registers multiply and add (native/matrix_registers.h): bfloat16, registers
// only.  A round is one instruction, 16 x 16 sums of 32 products.
#include "native/abi.h"
#include "native/matrix_registers.h"

#if defined(__AMX_BF16__)

namespace {

struct CeilingArgs {  // as in cpp.cpp
  const uint8_t *data;
  int64_t *sink;
  int64_t count;
};

void amxbf16(const void *args, int part, int) {
  const CeilingArgs &a = *static_cast<const CeilingArgs *>(args);
  alignas(64) uint8_t ones[kMatrixBytes];
  alignas(64) float sums[kMatrix * kMatrix];
  for (int i = 0; i < kMatrixBytes; i += 2) ones[i] = 0x80 * a.data[0], ones[i + 1] = 0x3f;
  MatrixRegisters registers(kMatrix, kMatrix);
  registers.load_tokens<0>(ones), registers.load_tokens<1>(ones);
  registers.load_weights<0>(ones), registers.load_weights<1>(ones);
  registers.clear<0>(), registers.clear<1>(), registers.clear<2>(), registers.clear<3>();
  // Four chains of 16 cycles an instruction: more than the 52 that one takes.
  for (int64_t i = 0; i < a.count; i += 4) {
    registers.multiply<0>(), registers.multiply<1>();
    registers.multiply<2>(), registers.multiply<3>();
  }
  registers.store_sums<3>(sums, kMatrix);
  a.sink[part % 64] = int64_t(sums[0]);
}
PYRO_KERNEL("ceiling.amxbf16", amxbf16);

}  // namespace

#endif
