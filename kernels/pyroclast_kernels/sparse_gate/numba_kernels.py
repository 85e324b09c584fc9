"""sparse_gate in Numba: as in cpp.cpp, one token per item."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.norm.numba_rows import LAYER, norm_of_row
from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    at,
    load_f64,
    load_i64,
    load_pointer,
    select_less,
    splat,
)

# Byte offsets of the argument struct.
_N_TOKENS, _GATE_UP, _D_FF, _ROW_STRIDE, _DEVIATIONS = range(0, 40, 8)


def sparse_gate_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, d_ff = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _D_FF)
    stride, deviations = load_i64(args, _ROW_STRIDE), np.float32(load_f64(args, _DEVIATIONS))
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        gate = at(load_pointer(args, _GATE_UP), 4 * t * stride)
        mean, rest, scale = norm_of_row(gate, d_ff, 0.0, LAYER)
        # scale is 1 over the deviation: of a row of equal values infinite, which gives 0.
        cut = splat(deviations) / scale
        for i in range(0, d_ff, 16):
            above = ((load_n(gate, 4 * i, d_ff - i) - mean) - rest) - cut
            above = select_less(above, splat(0.0), splat(0.0), above)  # a NaN stays one
            store_n(gate, 4 * i, above, d_ff - i)
