"""The helper of the Numba templates that also write their result in blocks of 8 bits."""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import carray


@numba.njit(error_model="numpy")
def best_level(y, largest):
    """Which of the levels that q8_blocks.py explains loses least; `largest` is the largest |y|."""
    in_256ths = min(np.float32(127) / largest, np.float32(2.0**110)) * np.float32(256)
    best, least = 127, np.float32(0)
    for level in range(127, 115, -2):
        factor, total = ((level << 16) // 127 + 1) // 2, 0
        for i in range(32):
            word = int(np.rint(y[i] * in_256ths)) if math.isfinite(y[i]) else 0
            rest = (((word * factor + 16384) >> 15) + 128) % 256 - 128
            total += rest * rest
        loss = np.float32(total) * (np.float32(127 * 127) / np.float32(level * level))
        if level == 127 or loss < least:
            best, least = level, loss
    return np.float32(best)


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
    level = best_level(y, largest)
    inverse = level / largest
    if not math.isfinite(inverse):  # of zeros
        inverse = np.float32(0)
    scale = largest / level
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
