"""What `embed` means, in NumPy."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pyroclast_kernels.weights.packing import PackedWeight

Array = NDArray[Any]


def embed(n_tokens: Array, token_ids: Array, weight: PackedWeight, out: Array, n_cols: int) -> None:
    """out[t] = row token_ids[t] of weight, dequantized.  n_tokens int64 (1,); token_ids int32
    (max_batch_tokens,), each below weight.n_rows (the caller checks); out float32
    (max_batch_tokens, n_cols).
    """
    t = int(n_tokens[0])
    out[:t, :n_cols] = weight.dequantize(token_ids[:t])
