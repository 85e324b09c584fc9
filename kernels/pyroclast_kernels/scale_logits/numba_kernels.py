"""scale_logits in Numba: as in C++, items are blocks of 1024 columns of a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import load_n, split_begin, store_n, tanh
from pyroclast_kernels.numba.simd import at, load_f64, load_i64, load_pointer, splat

_BLOCK = 1024
# Byte offsets of the argument struct.
_N_TOKENS, _LOGITS, _N_COLS, _SCALE, _SOFTCAP = range(0, 40, 8)


def scale_logits_f32(args: Any, part: int, n_parts: int) -> None:
    n_cols, softcap = load_i64(args, _N_COLS), load_f64(args, _SOFTCAP)
    scale, cap = splat(np.float32(load_f64(args, _SCALE))), splat(np.float32(softcap))
    n_blocks = (n_cols + _BLOCK - 1) // _BLOCK
    n_items = load_i64(load_pointer(args, _N_TOKENS), 0) * n_blocks
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        column = item % n_blocks * _BLOCK
        n = min(_BLOCK, n_cols - column)
        row = at(load_pointer(args, _LOGITS), 4 * (item // n_blocks * n_cols + column))
        for i in range(0, n, 16):
            y = load_n(row, 4 * i, n - i) * scale
            if softcap > 0:
                y = cap * tanh(y / cap)
            store_n(row, 4 * i, y, n - i)
