// The products of the formats whose every block of 32 columns has scales of its own: packed.h.
#include "products.h"

namespace {

PYRO_KERNEL("matmul.q8_0", matmul<Q8_0>);
PYRO_KERNEL("matmul.q4_0", matmul<Q4_0>);
PYRO_KERNEL("matmul.q4_1", matmul<Q4_1>);
PYRO_KERNEL("matmul.q5_0", matmul<Q5_0>);
PYRO_KERNEL("matmul.q5_1", matmul<Q5_1>);
PYRO_KERNEL("gate_up.q8_0", gate_up<Q8_0>);
PYRO_KERNEL("gate_up.q4_0", gate_up<Q4_0>);
PYRO_KERNEL("gate_up.q4_1", gate_up<Q4_1>);
PYRO_KERNEL("gate_up.q5_0", gate_up<Q5_0>);
PYRO_KERNEL("gate_up.q5_1", gate_up<Q5_1>);

}  // namespace
