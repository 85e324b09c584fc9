// The products of the formats of super-blocks: superblocks.h.
#include "products.h"

namespace {

PYRO_PRODUCTS("q2_k", Q2_K);
PYRO_PRODUCTS("q3_k", Q3_K);
PYRO_PRODUCTS("q4_k", Q4_K);
PYRO_PRODUCTS("q5_k", Q5_K);
PYRO_PRODUCTS("q6_k", Q6_K);

}  // namespace
