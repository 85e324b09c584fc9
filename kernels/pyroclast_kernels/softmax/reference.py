"""What `softmax` means, in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.softmax import MIN_TEMPERATURE

Array = NDArray[Any]


def softmax(
    logits: Array,
    n_rows: Array,
    temperatures: Array | None,
    bias: Array | None,
    allowed: Array | None,
    out: Array,
    n_cols: int,
    logits_stride: int,
    out_stride: int,
    log: int,
) -> None:
    """out[r] = exp(z / t) / sum(exp(z / t)) with z = logits[r] + bias, or its logarithm.

    z is rounded to float32, like the result; everything between is float64.  A temperature below
    1e-5 gives all probability to the maximum z, the first among equals.  A row without a
    distribution (a NaN or +inf among the z, or no finite z at all) becomes NaN throughout.
    """
    del logits_stride, out_stride  # for kernels
    for r in range(int(n_rows[0])):
        z = logits[r, :n_cols].astype(np.float32)
        if bias is not None:
            z += bias[:n_cols]
        if allowed is not None:
            bits = np.unpackbits(allowed[r].view(np.uint8), bitorder="little")[:n_cols]
            z[bits == 0] = -np.inf
        temperature = 1.0 if temperatures is None else float(temperatures[r])
        out[r, :n_cols] = _row(z, temperature, bool(log))


def _row(z: Array, temperature: float, log: bool) -> Array:
    if np.isnan(z).any() or not np.isfinite(z.max()):
        return np.full(len(z), np.nan)
    if temperature < MIN_TEMPERATURE:
        x = np.full(len(z), -np.inf)
        x[np.argmax(z)] = 0.0
    else:
        x = (z.astype(np.float64) - float(z.max())) / temperature
    total = np.sum(np.exp(x))
    return np.asarray(x - np.log(total) if log else np.exp(x) / total)
