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


def quantize(x: Array) -> Array:
    """x float32 (n_tokens, n) -> Q8_BLOCK (n_tokens, n // 32).

    values = round(x / scale) to nearest even, scale = max|x| / 127 of a block; a block that holds
    a NaN or an infinity gets a NaN for its scale, so that it is noticed at the logits.
    """
    n_tokens, n = x.shape
    blocks = x.reshape(n_tokens, n // BLOCK, BLOCK).astype(np.float32)
    finite = np.isfinite(blocks)
    clean = np.where(finite, blocks, np.float32(0))
    largest = np.abs(clean).max(axis=-1)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    values = np.rint(clean * inverse[..., None]).astype(np.int8)
    halves = values.reshape(*largest.shape, 2, BLOCK // 2).sum(axis=-1, dtype=np.int32)
    sums = halves.sum(axis=-1)
    out = np.zeros(largest.shape, Q8_BLOCK)
    out["scale"] = np.where(finite.all(axis=-1), largest / np.float32(127), np.float32(np.nan))
    out["sum_scaled"] = out["scale"] * sums
    out["minus_8_sum"], out["minus_128_sum"] = -8 * sums, -128 * sums
    out["values"] = values
    out["half_scaled"] = out["scale"][..., None] * halves
    out["minus_4_half_sum"] = -4 * halves
    return out


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
