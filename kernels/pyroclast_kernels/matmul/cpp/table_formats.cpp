// The products of the formats whose codes are looked up: tables.h.
#include "products.h"
#include "tables.h"

namespace {

PYRO_PRODUCTS("iq4_nl", IQ4_NL);
PYRO_PRODUCTS("iq4_xs", IQ4_XS);
PYRO_PRODUCTS("iq3_s", IQ3_S);
PYRO_PRODUCTS("mxfp4", MXFP4);
PYRO_PRODUCTS("t4_k", T4_K);

}  // namespace
