"""How far a product may be from its reference: what the case lists of all products share."""

from __future__ import annotations

import numpy as np

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.cases import EPS, Array
from pyroclast_kernels.weights.packing import PackedWeight

BF16_ROUNDING = 2.0**-8  # largest relative error of a bfloat16, which has 8 significant bits
TF32_CUT = 2.0**-10  # the same of a float32 cut, not rounded, to tf32's 11


def product_error(
    weight: PackedWeight, x: Array, rows: slice = slice(None), x_error: float = 0.0
) -> Array:
    """float32 (n_tokens, rows): the largest error of rows of a weight times x, which is float32 or
    Q8_BLOCK.  n_terms * eps * sum |w||x|: the classic bound of a float32 dot product, both sides;
    and what a relative error of every x adds to it."""
    values = q8_blocks.dequantize(x) if weight.takes_q8 else x
    n_terms = weight.n_cols // 32 * 2 if weight.takes_q8 else weight.n_cols
    # q8_0 and its like cancel 128 * sum(x): exact integers, no loss.  Where a minimum is added
    # apart, its terms and the products may both be larger than their sum.
    weights, minimums = weight.terms(rows)
    sums: Array = np.abs(values) @ (np.abs(weights) + 2 * np.abs(minimums)).T
    per_sum = 2 * (n_terms + 4) * EPS + x_error
    if weight.format == "bf16" and (x.view(np.uint32) & 0xFFFF).any():
        per_sum += BF16_ROUNDING
    return per_sum * sums
