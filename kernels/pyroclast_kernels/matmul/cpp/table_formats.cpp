// The products of the formats whose codes are looked up: tables.h.
#include "products.h"
#include "tables.h"

namespace {

PYRO_KERNEL("matmul.iq4_nl", matmul<IQ4_NL>);
PYRO_KERNEL("matmul.iq4_xs", matmul<IQ4_XS>);
PYRO_KERNEL("matmul.iq3_s", matmul<IQ3_S>);
PYRO_KERNEL("matmul.mxfp4", matmul<MXFP4>);
PYRO_KERNEL("matmul.t4_k", matmul<T4_K>);
PYRO_KERNEL("gate_up.iq4_nl", gate_up<IQ4_NL>);
PYRO_KERNEL("gate_up.iq4_xs", gate_up<IQ4_XS>);
PYRO_KERNEL("gate_up.iq3_s", gate_up<IQ3_S>);
PYRO_KERNEL("gate_up.mxfp4", gate_up<MXFP4>);
PYRO_KERNEL("gate_up.t4_k", gate_up<T4_K>);

}  // namespace
