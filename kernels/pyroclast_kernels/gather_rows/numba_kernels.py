"""gather_rows in Numba: out[i] = x[rows[i]], a row per item."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import at, load_i32, load_i64, load_pointer

# Byte offsets of the argument struct.
_N_TOKENS, _ROWS, _X, _OUT, _N_COLS = range(0, 40, 8)


def gather_rows_f32(args: Any, part: int, n_parts: int) -> None:
    n, n_cols = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _N_COLS)
    rows, out = load_pointer(args, _ROWS), load_pointer(args, _OUT)
    for i in range(split_begin(n, part, n_parts), split_begin(n, part + 1, n_parts)):
        x = at(load_pointer(args, _X), 4 * np.int64(load_i32(rows, 4 * i)) * n_cols)
        for k in range(0, n_cols, 16):
            store_n(out, 4 * (i * n_cols + k), load_n(x, 4 * k, n_cols - k), n_cols - k)
