"""low_rank in Numba: as in cpp.cpp, items are 128 rows of a token's result."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast_kernels.numba.math import load_n, split_begin
from pyroclast_kernels.numba.simd import (
    at,
    fma,
    inline,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    load_pointer,
    reduce_add,
    splat,
    stack,
    store_f32,
    store_f32x16,
)

# Byte offsets of the argument struct.
(
    _N_TOKENS, _N_ADAPTED, _ADAPTER_OF_TOKEN, _X, _LORA_A, _LORA_B, _RANKS, _SCALES, _OUT, _N_ROWS,
    _N_COLS, _MAX_RANK, _OUT_STRIDE,
) = range(0, 104, 8)  # fmt: skip
_ROWS = 128  # of an item
_RANKS_AT_ONCE = 64


@inline
def _project(x: Any, lora_a: Any, n_ranks: int, n_cols: int, scale: float, projected: Any) -> None:
    """projected[r] = scale * sum over k of x[k] * lora_a[r, k]; 0 up to _RANKS_AT_ONCE."""
    for i in range(0, 4 * _RANKS_AT_ONCE, 64):
        store_f32x16(projected, i, splat(0.0))
    for r in range(n_ranks):
        row, total = at(lora_a, 4 * r * n_cols), splat(0.0)
        for k in range(0, n_cols, 16):
            total = fma(load_n(x, 4 * k, n_cols - k), load_n(row, 4 * k, n_cols - k), total)
        store_f32(projected, 4 * r, np.float32(scale) * reduce_add(total))


@inline
def _add_rows(args: Any, token: int, adapter: int, first_row: int, end_row: int) -> None:
    n_cols, max_rank = load_i64(args, _N_COLS), load_i64(args, _MAX_RANK)
    rank = int(load_i32(load_pointer(args, _RANKS), 4 * adapter))
    scale = load_f32(load_pointer(args, _SCALES), 4 * adapter)
    x = at(load_pointer(args, _X), 4 * token * n_cols)
    lora_a = at(load_pointer(args, _LORA_A), 4 * adapter * max_rank * n_cols)
    lora_b = at(load_pointer(args, _LORA_B), 4 * adapter * load_i64(args, _N_ROWS) * max_rank)
    out = at(load_pointer(args, _OUT), 4 * token * load_i64(args, _OUT_STRIDE))
    projected = stack(4 * 64)
    for first in range(0, rank, _RANKS_AT_ONCE):
        n = min(_RANKS_AT_ONCE, rank - first)
        _project(x, at(lora_a, 4 * first * n_cols), n, n_cols, scale, projected)
        for row in range(first_row, end_row):
            b_row, total = at(lora_b, 4 * (row * max_rank + first)), splat(0.0)
            for i in range(0, n, 16):
                total = fma(load_n(b_row, 4 * i, n - i), load_f32x16(projected, 4 * i), total)
            store_f32(out, 4 * row, load_f32(out, 4 * row) + reduce_add(total))


def low_rank_f32(args: Any, part: int, n_parts: int) -> None:
    if load_i64(load_pointer(args, _N_ADAPTED), 0) == 0:
        return
    n_tokens, n_rows = load_i64(load_pointer(args, _N_TOKENS), 0), load_i64(args, _N_ROWS)
    adapters = load_pointer(args, _ADAPTER_OF_TOKEN)
    runs = (n_rows + _ROWS - 1) // _ROWS
    item, end = (
        split_begin(n_tokens * runs, part, n_parts),
        split_begin(n_tokens * runs, part + 1, n_parts),
    )
    while item < end:
        token, run = item // runs, item % runs
        end_run = min(runs, run + end - item)
        adapter = int(load_i32(adapters, 4 * token))
        if adapter >= 0:
            _add_rows(args, token, adapter, run * _ROWS, min(end_run * _ROWS, n_rows))
        item += end_run - run
