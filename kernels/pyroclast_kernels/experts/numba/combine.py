"""combine in Numba: items are runs of 512 columns of a token, as in experts/cpp/combine.cpp."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import load_n, split_begin, store_n
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    load_f32,
    load_f64,
    load_i64,
    load_pointer,
    splat,
)

# Byte offsets of the argument struct.
_N_TOKENS, _Y, _GATES, _OUT, _N_ACTIVE, _N_COLS, _SCALE, _ACCUMULATE = range(0, 64, 8)
_RUN = 512


def combine_f32(args: Any, part: int, n_parts: int) -> None:
    n_slots, n_cols = load_i64(args, _N_ACTIVE), load_i64(args, _N_COLS)
    scale, runs = splat(np.float32(load_f64(args, _SCALE))), (n_cols + _RUN - 1) // _RUN
    n_items = load_i64(load_pointer(args, _N_TOKENS), 0) * runs
    for item in range(split_begin(n_items, part, n_parts), split_begin(n_items, part + 1, n_parts)):
        token, first = item // runs, item % runs * _RUN
        y = at(load_pointer(args, _Y), 4 * token * n_slots * n_cols)
        gates = at(load_pointer(args, _GATES), 4 * token * n_slots)
        out = at(load_pointer(args, _OUT), 4 * token * n_cols)
        end = min(first + _RUN, n_cols)
        for i in range(first, end, 16):
            total = splat(0.0)
            for slot in range(n_slots):
                row = load_n(y, 4 * (slot * n_cols + i), end - i)
                total = fma(splat(load_f32(gates, 4 * slot)), row, total)
            total = total * scale
            if load_i64(args, _ACCUMULATE) != 0:
                total = load_n(out, 4 * i, end - i) + total
            store_n(out, 4 * i, total, end - i)
