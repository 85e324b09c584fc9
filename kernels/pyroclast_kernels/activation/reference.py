"""What `quantize` and `swiglu` mean, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import activations

Array = NDArray[Any]


def quantize(n_tokens: Array, x: Array, out_q8: Array, n_cols: int) -> None:
    """out_q8[t] = x[t] in 8-bit blocks of 32: see pyroclast_kernels.activations.

    n_tokens int64 (1,); x float32 (max_tokens, n_cols); out_q8 Q8_BLOCK (max_tokens, n_cols // 32).
    """
    activations.put(x[: int(n_tokens[0]), :n_cols], None, out_q8)


def swiglu(
    n_tokens: Array, gate_up: Array, out: Array | None, out_q8: Array | None, d_ff: int
) -> None:
    """out[t, i] = silu(gate[t, i]) * up[t, i], silu(g) = g / (1 + exp(-g))  (Shazeer 2020).

    n_tokens int64 (1,); gate_up float32 (max_tokens, 2 * d_ff), the gate first; out float32
    (max_tokens, d_ff) and out_q8 Q8_BLOCK (max_tokens, d_ff // 32) are both optional.
    """
    t = int(n_tokens[0])
    gate, up = gate_up[:t, :d_ff], gate_up[:t, d_ff:]
    with np.errstate(over="ignore"):
        y = gate / (np.float32(1) + np.exp(-gate)) * up
    activations.put(y, out, out_q8)
