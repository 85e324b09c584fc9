"""What `matmul`, `gate_up` and `pack` mean, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.activation.reference import gated
from pyroclast_kernels.q8_blocks import dequantize, put
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows

Array = NDArray[Any]


def matmul(
    n_tokens: Array,
    x: Array,
    weight: PackedWeight,
    bias: Array | None,
    out: Array,
    n_rows: int,
    n_cols: int,
    out_stride: int,
    accumulate: int,
) -> None:
    """out[t, row] = sum over k of weight[row, k] * x[t, k] (+ bias[row]) (+ out[t, row]).

    n_tokens int64 (1,); x (max_batch_tokens, n_cols) float32, or Q8_BLOCK (max_batch_tokens,
    n_cols // 32) for block-quantized weights; out float32, rows out_stride apart; `accumulate`
    adds to out. Quantized products are exact inside a block of 32 columns; float32 sums
    elsewhere.  For bf16 weights a variant may round x to bfloat16 as well (to nearest even), as
    the CPU's dot product of pairs needs it.  The sum over k has one order for each row, whatever
    the number of tokens.
    """
    t = int(n_tokens[0])
    values = dequantize(x[:t]) if weight.takes_q8 else x[:t]
    y = values @ weight.dequantize().T
    if bias is not None:
        y += bias
    rows = np.lib.stride_tricks.as_strided(out, (t, n_rows), (4 * out_stride, 4))
    rows[:] = rows + y if accumulate else y


def gate_up(
    n_tokens: Array,
    x: Array,
    weight: PackedWeight,
    out: Array | None,
    out_q8: Array | None,
    d_ff: int,
    n_cols: int,
    activation: int,
) -> None:
    """`matmul` and `glu` in one: out[t, i] = f(gate[t, i]) * up[t, i], f = ACTIVATIONS[activation],
    where gate[t, i] = sum over k of weight[i, k] * x[t, k], and up the same with row d_ff + i.

    n_tokens int64 (1,); x Q8_BLOCK (max_batch_tokens, n_cols // 32); weight (2 * d_ff, n_cols),
    d_ff a multiple of 16; out float32 (max_batch_tokens, d_ff) and out_q8 Q8_BLOCK
    (max_batch_tokens, d_ff // 32) are both optional, out_q8 needs a multiple of 32.
    """
    assert d_ff % (32 if out_q8 is not None else 16) == 0 and n_cols == weight.n_cols
    y = dequantize(x[: int(n_tokens[0])]) @ weight.dequantize().T
    gate, up = y[:, :d_ff], y[:, d_ff:]
    put(gated(gate, up, activation), out, out_q8)


def pack(raw: Array, weight: PackedWeight, n_rows: int, n_cols: int, row_offset: int) -> None:
    """Lays raw rows uint8 (n_rows, row_bytes), as in a file, into rows [row_offset, row_offset +
    n_rows) of the packed weight.  Reads raw only; other rows of the weight stay as they are."""
    assert n_cols == weight.n_cols and len(raw) == n_rows
    pack_rows(raw, weight, row_offset)
