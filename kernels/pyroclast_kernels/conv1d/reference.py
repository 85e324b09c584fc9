"""What `conv1d` means, in NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.activation.reference import activated
from pyroclast_kernels.conv1d import KINDS

Array = NDArray[Any]
_SILU = ACTIVATIONS.index("silu")


def conv1d(
    n_seqs: Array,
    seq_starts: Array,
    slots_in: Array,
    slots_out: Array,
    x: Array,
    weight: Array,
    bias: Array | None,
    state: Array,
    out: Array | None,
    out_q8: Array | None,
    n_channels: int,
    width: int,
    x_stride: int,
    kind: int,
) -> None:
    """A causal convolution over the tokens of each sequence, each channel with its own filter:
    y[t, c] = bias[c] + sum over i < width of weight[i, c] * u[t - width + 1 + i, c].

    kind, a place in KINDS.  "silu": u is x, and out = y / (1 + e^-y) (Gated DeltaNet, Mamba 2).
    "gated": x is three runs of n_channels columns, b, c and v; u = b * v, and out = c * y (LFM2).

    n_seqs int64 (1,).  seq_starts int32 (max_seqs + 1,): sequence i owns tokens [starts[i],
    starts[i + 1]).  x float32, rows x_stride apart, of which the first columns are read.  weight
    float32 (width, n_channels), the filter of the oldest token first; bias float32 (n_channels,)
    or None.  out float32 (max_batch_tokens, n_channels) and out_q8 Q8_BLOCK (max_batch_tokens,
    n_channels // 32) are both optional.

    state float32 (n_slots, width - 1, n_channels): the u of the tokens before, the oldest first.
    slots_in int32 (max_seqs,): the slot in which a sequence begins, negative for a state of
    zeros.  slots_out int32 (max_batch_tokens,): the slot that takes the state after a token,
    negative for none; the last token of a sequence has one.  A sequence may write the slot in
    which it begins; no other sequence reads or writes a slot that it writes.

    width is at least 2.  A token's bits depend on its sequence alone, however it is cut into steps.
    """
    assert len(weight) == width and x.strides[0] == x.itemsize * x_stride
    gated = KINDS[kind] == "gated"
    for i, (first, end) in enumerate(pairwise(seq_starts[: int(n_seqs[0]) + 1])):
        u = x[first:end, :n_channels]
        if gated:
            u = u * x[first:end, 2 * n_channels : 3 * n_channels]
        before = state[slots_in[i]] if slots_in[i] >= 0 else np.zeros_like(state[0])
        u = np.concatenate([before, u])
        y = sum(weight[j] * u[j : j + end - first] for j in range(width))
        y = y if bias is None else y + bias
        y = x[first:end, n_channels : 2 * n_channels] * y if gated else activated(y, _SILU)
        for t in range(first, end):
            if slots_out[t] >= 0:
                state[slots_out[t]] = u[t - first + 1 : t - first + width]
        q8_blocks.put(
            y,
            None if out is None else out[first:end],
            None if out_q8 is None else out_q8[first:end],
        )
