"""What `norm` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks

Array = NDArray[Any]


def norm(
    n_tokens: Array,
    rows: Array | None,
    x: Array,
    weight: Array,
    out: Array | None,
    out_q8: Array | None,
    d_model: int,
    eps: float,
) -> None:
    """out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight  (Zhang and Sennrich 2019).

    n_tokens int64 (1,); x float32 (max_batch_tokens, d_model); weight float32 (d_model,).  With
    rows int32, row t of the output is made of x[rows[t]].  out float32 and out_q8 Q8_BLOCK
    (max_batch_tokens, d_model // 32) are both optional.
    """
    t = int(n_tokens[0])
    chosen = x[:t] if rows is None else x[rows[:t]]
    mean = np.mean(chosen * chosen, axis=-1, dtype=np.float64, keepdims=True)
    scale = (1.0 / np.sqrt(mean + eps)).astype(np.float32)
    q8_blocks.put(chosen[:, :d_model] * scale * weight, out, out_q8)
