"""What `layer_input` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.activation.reference import gated
from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.norm.reference import normed

Array = NDArray[Any]
_RMS = KINDS.index("rms")


def layer_input(
    n_tokens: Array,
    gate: Array,
    embedded: Array,
    projected: Array,
    weight: Array,
    out: Array | None,
    out_q8: Array | None,
    width: int,
    row_stride: int,
    activation: int,
    eps: float,
    scale: float,
) -> None:
    """out[t] = f(gate[t]) * scale * (embedded[t] + N(projected[t])): per-layer embeddings
    (Gemma 3n, 2025).  f = ACTIVATIONS[activation]; N is the RMS norm of the op `norm`, with weight
    and eps.

    n_tokens int64 (1,); gate float32 (max_batch_tokens, width); embedded and projected float32,
    rows row_stride apart, of which the first `width` columns are read; weight float32 (width,); out
    float32 (max_batch_tokens, width) and out_q8 Q8_BLOCK (max_batch_tokens, width // 32) are both
    optional.  scale is rounded to float32.
    """
    t = int(n_tokens[0])
    for rows in (embedded, projected):
        assert rows.strides[0] == rows.itemsize * row_stride
    added = embedded[:t, :width] + normed(projected[:t, :width], weight, None, eps, _RMS)
    q8_blocks.put(gated(gate[:t], added * np.float32(scale), activation), out, out_q8)
