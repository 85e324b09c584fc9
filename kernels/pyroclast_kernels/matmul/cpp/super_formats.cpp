// The products of the formats of super-blocks: superblocks.h.
#include "products.h"

namespace {

PYRO_KERNEL("matmul.q2_k", matmul<Q2_K>);
PYRO_KERNEL("matmul.q3_k", matmul<Q3_K>);
PYRO_KERNEL("matmul.q4_k", matmul<Q4_K>);
PYRO_KERNEL("matmul.q5_k", matmul<Q5_K>);
PYRO_KERNEL("matmul.q6_k", matmul<Q6_K>);
PYRO_KERNEL("gate_up.q2_k", gate_up<Q2_K>);
PYRO_KERNEL("gate_up.q3_k", gate_up<Q3_K>);
PYRO_KERNEL("gate_up.q4_k", gate_up<Q4_K>);
PYRO_KERNEL("gate_up.q5_k", gate_up<Q5_K>);
PYRO_KERNEL("gate_up.q6_k", gate_up<Q6_K>);

}  // namespace
