"""What `sparse_gate` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def sparse_gate(
    n_tokens: Array, gate_up: Array, d_ff: int, row_stride: int, deviations: float
) -> None:
    """gate[t] = relu(gate[t] - mean - deviations * s), of the mean of gate[t] and its standard
    deviation s (of the row itself, divided by d_ff): of a normal distribution, deviations 1.645
    leave one in twenty (the Gaussian top-k of Gemma 3n, 2025).  A NaN makes the row NaN.
    Squares of what is above the mean must fit float32.

    n_tokens int64 (1,); gate_up float32 (max_batch_tokens, row_stride), of which the first d_ff
    columns are the gate, changed in place; deviations is rounded to float32.
    """
    t = int(n_tokens[0])
    assert gate_up.strides[0] == gate_up.itemsize * row_stride
    gate = gate_up[:t, :d_ff].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = (f(gate, axis=-1, keepdims=True) for f in (np.mean, np.std))
        above = gate - mean - float(np.float32(deviations)) * deviation
        gate_up[:t, :d_ff] = np.where(above < 0, 0, above)
