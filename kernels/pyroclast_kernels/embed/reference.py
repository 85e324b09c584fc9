"""What `embed` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.weights.packing import PackedWeight

Array = NDArray[Any]


def embed(
    n_tokens: Array,
    token_ids: Array,
    weight: PackedWeight,
    out: Array,
    n_cols: int,
    scale: float,
    accumulate: int,
) -> None:
    """out[t] = scale * row token_ids[t] of weight, dequantized; added to out[t] with accumulate 1.

    n_tokens int64 (1,); token_ids int32 (max_batch_tokens,), each below weight.n_rows (the caller
    checks); out float32 (max_batch_tokens, n_cols).  scale is rounded to float32; the row, its
    product with scale and the sum are each rounded to float32.
    """
    t = int(n_tokens[0])
    with np.errstate(over="ignore", invalid="ignore"):
        rows = weight.dequantize(token_ids[:t]) * np.float32(scale)
        out[:t, :n_cols] = out[:t, :n_cols] + rows if accumulate else rows
