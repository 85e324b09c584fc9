// silu(g) = g / (1 + exp(-g)), the gate of SwiGLU (Shazeer 2020).
#pragma once

#include "native/simd.h"

PYRO_INLINE f32x16 silu(f32x16 g) { return g / (set1(1.0f) + exp(set1(0.0f) - g)); }
