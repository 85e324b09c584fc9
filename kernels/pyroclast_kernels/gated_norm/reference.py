"""What `gated_norm` and `sigmoid_gate` mean, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.activation.reference import activated
from pyroclast_kernels.gated_norm import KINDS
from pyroclast_kernels.norm import KINDS as NORM_KINDS
from pyroclast_kernels.norm.reference import normed

Array = NDArray[Any]
_SILU = ACTIVATIONS.index("silu")
_RMS = NORM_KINDS.index("rms")


def gated_norm(
    n_tokens: Array,
    x: Array,
    gate: Array,
    weight: Array,
    out: Array | None,
    out_q8: Array | None,
    n_groups: int,
    width: int,
    gate_stride: int,
    weight_stride: int,
    eps: float,
    kind: int,
) -> None:
    """The RMS norm of each group of columns, with a gate, silu(g) = g / (1 + e^-g).

    kind, a place in KINDS.  "norm_first": out = norm(x) * weight * silu(gate) (Gated DeltaNet).
    "gate_first": out = norm(x * silu(gate)) * weight (Mamba 2).

    n_tokens int64 (1,); x float32 (max_batch_tokens, n_groups * width), a group being width
    adjacent columns; gate float32, rows gate_stride apart, of which the first n_groups * width
    columns are read.  weight float32: that of group g begins at g * weight_stride, so 0 is one
    weight (width,) for all groups.  out float32 like x and out_q8 Q8_BLOCK (max_batch_tokens,
    n_groups * width // 32) are both optional; out_q8 needs a width that is a multiple of 32.
    """
    t, n_columns = int(n_tokens[0]), n_groups * width
    assert gate.strides[0] == gate.itemsize * gate_stride
    assert weight_stride in (0, width)
    groups = x[:t].reshape(t, n_groups, width)
    g = gate[:t, :n_columns].reshape(groups.shape)
    factor = activated(g, _SILU)
    if KINDS[kind] == "gate_first":
        groups, factor = groups * factor, np.ones_like(factor)
    ones = np.ones(width, np.float32)
    y = normed(groups.reshape(-1, width), ones, None, eps, _RMS).reshape(groups.shape)
    y = y * weight.reshape(-1, width) * factor
    q8_blocks.put(y.reshape(t, n_columns), out, out_q8)


def sigmoid_gate(
    n_tokens: Array,
    x: Array,
    gate: Array,
    out_q8: Array | None,
    n_cols: int,
    gate_stride: int,
) -> None:
    """x[t, i] = x[t, i] / (1 + e^-gate[t, i]), in place: the output gate of attention.

    n_tokens int64 (1,); x float32 (max_batch_tokens, n_cols); gate float32, rows gate_stride apart,
    of which the first n_cols columns are read; out_q8 Q8_BLOCK (max_batch_tokens, n_cols // 32)
    takes the result too, if it is given.
    """
    t = int(n_tokens[0])
    assert gate.strides[0] == gate.itemsize * gate_stride
    with np.errstate(over="ignore"):
        y = x[:t] / (1 + np.exp(-gate[:t, :n_cols]))
    q8_blocks.put(y, x, out_q8)
