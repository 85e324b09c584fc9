// The products of the formats whose every block of 32 columns has scales of its own: packed.h.
#include "products.h"

namespace {

PYRO_PRODUCTS("q8_0", Q8_0);
PYRO_PRODUCTS("q4_0", Q4_0);
PYRO_PRODUCTS("q4_1", Q4_1);
PYRO_PRODUCTS("q5_0", Q5_0);
PYRO_PRODUCTS("q5_1", Q5_1);

}  // namespace
