"""layer_input in Numba: as in cpp.cpp, one token per item."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.activation.numba.kernels import activate
from pyroclast_kernels.activation.numba.quantize import Q8_BYTES, quantize_block
from pyroclast_kernels.norm.numba_rows import RMS, norm_of_row, normed
from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import at, inline, load_f64, load_i64, load_pointer, splat

# Byte offsets of the argument struct.
_N_TOKENS, _GATE, _EMBEDDED, _PROJECTED, _WEIGHT, _OUT, _OUT_Q8 = range(0, 56, 8)
_WIDTH, _ROW_STRIDE, _ACTIVATION, _EPS, _SCALE = range(56, 96, 8)


@inline
def _gated(args: Any, row: Any, gate: Any, embedded: Any, projected: Any, i: int, n: int) -> Any:
    """Columns i .. i + 15 of a token's result; n columns are left."""
    weight = load_pointer(args, _WEIGHT)
    norm = normed(row, projected, weight, weight, False, i, n)
    scale = splat(np.float32(load_f64(args, _SCALE)))
    added = (load_n(embedded, 4 * i, n) + norm) * scale
    return activate(load_i64(args, _ACTIVATION), load_n(gate, 4 * i, n)) * added


def layer_input_f32(args: Any, part: int, n_parts: int) -> None:
    n_tokens, width = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _WIDTH)
    stride, eps = load_i64(args, _ROW_STRIDE), load_f64(args, _EPS)
    out, out_q8 = load_pointer(args, _OUT), load_pointer(args, _OUT_Q8)
    wants_values, wants_q8 = load_i64(args, _OUT) != 0, load_i64(args, _OUT_Q8) != 0
    for t in range(split_begin(n_tokens, part, n_parts), split_begin(n_tokens, part + 1, n_parts)):
        gate = at(load_pointer(args, _GATE), 4 * t * width)
        embedded = at(load_pointer(args, _EMBEDDED), 4 * t * stride)
        projected = at(load_pointer(args, _PROJECTED), 4 * t * stride)
        row = norm_of_row(projected, width, eps, RMS)
        for i in range(0, width, 32):
            n = width - i
            low = _gated(args, row, gate, embedded, projected, i, n)
            high = _gated(args, row, gate, embedded, projected, i + 16, n - 16)
            if wants_values:
                store_n(out, 4 * (t * width + i), low, n)
                store_n(out, 4 * (t * width + i + 16), high, n - 16)
            if wants_q8:
                quantize_block(low, high, at(out_q8, (t * width + i) // 32 * Q8_BYTES))
