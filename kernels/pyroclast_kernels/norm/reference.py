"""What `norm` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.norm import KINDS

Array = NDArray[Any]


def norm(
    n_tokens: Array,
    rows: Array | None,
    x: Array,
    weight: Array,
    bias: Array | None,
    out: Array | None,
    out_q8: Array | None,
    d_model: int,
    eps: float,
    kind: int,
) -> None:
    """out[t] = c / sqrt(mean(c^2) + eps) * weight + bias, where c is x[t] for kind 0 (RMS norm,
    Zhang and Sennrich 2019) and x[t] - mean(x[t]) for kind 1 (layer norm, Ba et al. 2016).

    n_tokens int64 (1,); x float32 (max_batch_tokens, d_model); weight float32 (d_model,); bias
    float32 (d_model,) or None.  With rows int32, row t of the output is made of x[rows[t]].  out
    float32 and out_q8 Q8_BLOCK (max_batch_tokens, d_model // 32) are both optional.
    """
    t = int(n_tokens[0])
    chosen = x[:t] if rows is None else x[rows[:t]]
    q8_blocks.put(normed(chosen[:, :d_model], weight, bias, eps, kind), out, out_q8)


def normed(x: Array, weight: Array, bias: Array | None, eps: float, kind: int) -> Array:
    """The norm of each row of x float32 (n, d), weight and bias (d,): float32 (n, d)."""
    if KINDS[kind] == "layer":
        mean = np.mean(x, axis=-1, dtype=np.float64, keepdims=True)
        x = (x - mean).astype(np.float32)  # subtracted in float64
    square = np.mean(x * x, axis=-1, dtype=np.float64, keepdims=True)
    y: Array = x * (1.0 / np.sqrt(square + eps)).astype(np.float32) * weight
    return y if bias is None else y + bias
