"""The helper of the Numba templates that also write their result in blocks of 8 bits."""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import carray


@numba.njit(error_model="numpy")
def quantize_block(y, pointer, block):
    """Block number `block` of 64 bytes at `pointer` from y, 32 float32: see q8_blocks.py."""
    floats = carray(pointer, (block + 1, 16), np.float32)[block]
    ints = carray(pointer, (block + 1, 16), np.int32)[block]
    values = carray(pointer, (block + 1, 64), np.int8)[block, 16:48]
    largest, finite = np.float32(0), True
    for i in range(32):
        if math.isfinite(y[i]):
            largest = max(largest, abs(y[i]))
        else:
            finite = False
    inverse = np.float32(127) / largest if largest > 0 else np.float32(0)
    scale = largest / np.float32(127)
    if not finite:
        scale = np.float32(np.nan)
    halves = (0, 0)
    for i in range(32):
        q = int(np.rint(y[i] * inverse)) if math.isfinite(y[i]) else 0
        values[i] = q
        halves = (halves[0] + q, halves[1]) if i < 16 else (halves[0], halves[1] + q)
    total = halves[0] + halves[1]
    floats[0], floats[1] = scale, scale * np.float32(total)
    ints[2], ints[3] = -8 * total, -128 * total
    floats[12], floats[13] = scale * np.float32(halves[0]), scale * np.float32(halves[1])
    ints[14], ints[15] = -4 * halves[0], -4 * halves[1]
