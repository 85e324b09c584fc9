"""Activations quantized to 8 bits, as the products of block-quantized weights take them.

Q8_BLOCK mirrors `struct Q8Block` of native/abi.h: 32 values, their scale, and the sums that cancel
the offsets of unsigned weights and multiply minimums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 32
Q8_BLOCK = np.dtype(
    [
        ("scale", "<f4"),
        ("sum_scaled", "<f4"),
        ("minus_8_sum", "<i4"),
        ("minus_128_sum", "<i4"),
        ("values", "i1", (BLOCK,)),
        ("half_scaled", "<f4", (2,)),
        ("minus_4_half_sum", "<i4", (2,)),
    ]
)


# A block's scale is max|x| / level, for the one of these levels that loses least.  Variants count
# on the odd numbers from 127 down.
LEVELS = tuple(range(127, 115, -2))
# Into 15 bits: what turns steps of the first level into those of another one.
LEVEL_FACTORS = tuple(round(level / LEVELS[0] * 2**15) for level in LEVELS)
# Squares of steps of a level, in those of the first.
LOSS_FACTORS = tuple(float(np.float32(LEVELS[0] ** 2) / np.float32(level**2)) for level in LEVELS)
MOST_INVERSE = 2.0**110  # of a scale, when losses are counted: 256 times as much is finite


def quantize(x: Array) -> Array:
    """x float32 (n_tokens, n) -> Q8_BLOCK (n_tokens, n // 32).

    values = round(x / scale) to nearest even.  With a scale of max|x| / level, for any whole level,
    the largest value has no error, and the errors of the others are as good as random.  So of
    LEVELS the one with the smallest sum of squared errors is taken, the first one of equals.
    Errors count in whole 256ths of a step: sums are exact, and every variant takes the same level.
    A block that holds a NaN or an infinity gets a NaN for its scale, so that it is noticed at the
    logits.
    """
    n_tokens, n = x.shape
    blocks = x.reshape(n_tokens, n // BLOCK, BLOCK).astype(np.float32)
    finite = np.isfinite(blocks)
    clean = np.where(finite, blocks, np.float32(0))
    largest = np.abs(clean).max(axis=-1)
    level = best_levels(clean, largest)
    scale, inverse = largest / level, _quotient(level, largest)
    inverse[np.isinf(inverse)] = 0  # of zeros, and of what is too small
    values = np.rint(clean * inverse[..., None]).astype(np.int8)
    halves = values.reshape(*largest.shape, 2, BLOCK // 2).sum(axis=-1, dtype=np.int32)
    sums = halves.sum(axis=-1)
    out = np.zeros(largest.shape, Q8_BLOCK)
    out["scale"] = np.where(finite.all(axis=-1), scale, np.float32(np.nan))
    out["sum_scaled"] = out["scale"] * sums
    out["minus_8_sum"], out["minus_128_sum"] = -8 * sums, -128 * sums
    out["values"] = values
    out["half_scaled"] = out["scale"][..., None] * halves
    out["minus_4_half_sum"] = -4 * halves
    return out


def best_levels(blocks: Array, largest: Array) -> Array:
    """Finite float32 (..., 32) and their largest magnitudes (...) -> levels, float32 (...)."""
    inverse = np.minimum(_quotient(np.float32(LEVELS[0]), largest), np.float32(MOST_INVERSE))
    in_256ths = np.rint(blocks * (inverse * np.float32(256))[..., None]).astype(np.int32)
    losses = []
    for level_factor, loss_factor in zip(LEVEL_FACTORS, LOSS_FACTORS, strict=True):
        at_level = (in_256ths * level_factor + 2**14) >> 15
        rest = (at_level + 128) % 256 - 128
        losses.append((rest * rest).sum(axis=-1).astype(np.float32) * np.float32(loss_factor))
    levels: Array = np.array(LEVELS, np.float32)[np.argmin(losses, axis=0)]
    return levels


def _quotient(level: Any, largest: Array) -> Array:
    with np.errstate(divide="ignore", over="ignore"):
        quotient: Array = level / largest
    return quotient


def dequantize(blocks: Array) -> Array:
    """Q8_BLOCK (n_tokens, n_blocks) -> float32 (n_tokens, n_blocks * 32)."""
    n_tokens, n_blocks = blocks.shape
    x = blocks["values"].astype(np.float32) * blocks["scale"][..., None]
    out: Array = x.reshape(n_tokens, n_blocks * BLOCK)
    return out


def put(x: Array, out: Array | None, out_q8: Array | None) -> None:
    """Writes x (n_tokens, n) into the first rows of the float32 and the quantized outputs."""
    n_tokens = len(x)
    if out is not None:
        out[:n_tokens] = x
    if out_q8 is not None:
        out_q8[:n_tokens] = quantize(x)
