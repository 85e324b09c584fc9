"""What `scale_logits` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def scale_logits(n_tokens: Array, logits: Array, n_cols: int, scale: float, softcap: float) -> None:
    """logits[t] = scale * logits[t]; then, with softcap > 0, softcap * tanh(logits[t] / softcap),
    which keeps them between -softcap and softcap.

    n_tokens int64 (1,); logits float32 (max_logits, n_cols), changed in place; scale is rounded to
    float32, like softcap.  A NaN stays NaN; of an infinity a soft cap is the limit.
    """
    t = int(n_tokens[0])
    with np.errstate(over="ignore", invalid="ignore"):
        y = logits[:t, :n_cols].astype(np.float64) * float(np.float32(scale))
        if softcap > 0:
            cap = float(np.float32(softcap))
            y = cap * np.tanh(y / cap)
        logits[:t, :n_cols] = y
