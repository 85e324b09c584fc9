"""What `quantize` and `glu` mean, in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation import ACTIVATIONS

Array = NDArray[Any]
_erfc = np.vectorize(math.erfc, otypes=[np.float64])  # NumPy has no error function


def quantize(n_tokens: Array, x: Array, out_q8: Array, n_cols: int) -> None:
    """out_q8[t] = x[t] in 8-bit blocks of 32: see pyroclast_kernels.q8_blocks.

    n_tokens int64 (1,); x float32 (max_batch_tokens, n_cols); out_q8 Q8_BLOCK (max_batch_tokens,
    n_cols // 32).
    """
    q8_blocks.put(x[: int(n_tokens[0]), :n_cols], None, out_q8)


def silu(x: Array) -> Array:
    """x / (1 + e^-x), the logistic function of x times x, in the type of x."""
    y: Array = x / (x.dtype.type(1) + np.exp(-x))
    return y


def gelu_tanh(x: Array) -> Array:
    """x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3)  (Hendrycks and Gimpel 2016).

    Computed in float64 as x / (1 + e^-2u), which is the same function and loses nothing where
    tanh u is near -1.
    """
    wide = x.astype(np.float64)
    u = np.sqrt(2 / np.pi) * wide * (1 + 0.044715 * wide * wide)
    y: Array = (wide / (1 + np.exp(-2 * u))).astype(x.dtype)
    return y


def gelu(x: Array) -> Array:
    """x (1 + erf(x / sqrt 2)) / 2: x times the normal distribution's share below x  (Hendrycks and
    Gimpel 2016).

    Computed in float64 as x erfc(-x / sqrt 2) / 2, which loses nothing where erf is near -1.
    """
    wide = x.astype(np.float64)
    y: Array = (wide * 0.5 * _erfc(-wide * math.sqrt(0.5))).astype(x.dtype)
    return y


def relu(x: Array) -> Array:
    """x where it is positive, else 0; NaN stays NaN, -0 stays -0."""
    return np.where(x < 0, x.dtype.type(0), x)


def relu2(x: Array) -> Array:
    """relu(x)^2  (So et al. 2021)."""
    return np.square(relu(x))


_FUNCTIONS = dict(zip(ACTIVATIONS, (silu, gelu_tanh, gelu, relu, relu2), strict=True))


def activated(x: Array, activation: int) -> Array:
    """ACTIVATIONS[activation](x) in the type of x.  No warnings: an exponential may overflow, and
    the NaN of an x of -inf is found at the logits."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _FUNCTIONS[ACTIVATIONS[activation]](x)


def gated(gate: Array, up: Array, activation: int) -> Array:
    """float32 ACTIVATIONS[activation](gate) * up."""
    with np.errstate(over="ignore", invalid="ignore"):
        y: Array = activated(gate, activation) * up
    return y


def glu(
    n_tokens: Array,
    gate_up: Array,
    out: Array | None,
    out_q8: Array | None,
    d_ff: int,
    activation: int,
    gated: int,
) -> None:
    """out[t, i] = f(gate[t, i]) * up[t, i], f = ACTIVATIONS[activation]: a gated linear unit
    (Shazeer 2020; SwiGLU with silu, GeGLU with gelu).  With gated 0 there is no up, and
    out[t, i] = f(gate[t, i]).

    n_tokens int64 (1,); gate_up float32 (max_batch_tokens, 2 * d_ff), the gate first, or, with
    gated 0, (max_batch_tokens, d_ff); out float32 (max_batch_tokens, d_ff) and out_q8 Q8_BLOCK
    (max_batch_tokens, d_ff // 32) are both optional.  A gate of +inf gives inf, one of -inf gives
    NaN (0 with relu and relu2), one of NaN gives NaN.
    """
    t = int(n_tokens[0])
    y = activated(gate_up[:t, :d_ff], activation)
    if gated:
        with np.errstate(over="ignore", invalid="ignore"):
            y = y * gate_up[:t, d_ff:]
    q8_blocks.put(y, out, out_q8)
