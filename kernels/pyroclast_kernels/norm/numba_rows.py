"""The norm of a row, in Numba, which norm, residual and qk_norm share: as in cpp/rows.h."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.numba.math import load_n
from pyroclast_kernels.numba.simd import (
    fma,
    inline,
    load_f32x16,
    reduce_add,
    splat,
    stack,
    store_f32,
    store_f32x16,
)

RMS, LAYER = KINDS.index("rms"), KINDS.index("layer")


@inline
def _first_lanes(x: Any, n: int) -> Any:
    """x with zeros from lane n on."""
    if n >= 16:
        return x
    lanes = stack(64)
    store_f32x16(lanes, 0, x)
    for i in range(n, 16):
        store_f32(lanes, 4 * i, np.float32(0))
    return load_f32x16(lanes, 0)


@inline
def _mean(x: Any, n: int, shift: Any) -> Any:
    """The mean of x - shift."""
    total = splat(0.0)
    for i in range(0, n, 16):
        total = total + _first_lanes(load_n(x, 4 * i, n - i) - splat(shift), n - i)
    return reduce_add(total) / np.float32(n)


@inline
def norm_of_row(x: Any, n: int, eps: float, kind: int) -> Any:
    """(mean, rest, scale), each in all lanes: the result is (x - mean - rest) * scale.  Of an RMS
    norm mean and rest are 0, and x - 0 is x to the bit."""
    mean, rest = np.float32(0), np.float32(0)
    if kind == LAYER:
        mean = _mean(x, n, np.float32(0))
        rest = _mean(x, n, mean)
    squares = splat(0.0)
    for i in range(0, n, 16):
        v = _first_lanes((load_n(x, 4 * i, n - i) - splat(mean)) - splat(rest), n - i)
        squares = fma(v, v, squares)
    mean_square = reduce_add(squares) / np.float32(n)
    scale = np.float32(1) / np.float32(math.sqrt(mean_square + np.float32(eps)))
    return splat(mean), splat(rest), splat(scale)


@inline
def normed(row: Any, x: Any, weight: Any, bias: Any, has_bias: bool, i: int, n: int) -> Any:
    """Columns i .. i + 15 of the row's result; n columns are left."""
    mean, rest, scale = row
    y = ((load_n(x, 4 * i, n) - mean) - rest) * scale * load_n(weight, 4 * i, n)
    return y + load_n(bias, 4 * i, n) if has_bias else y
