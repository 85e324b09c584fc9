"""What `low_rank` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def low_rank(
    n_tokens: Array,
    n_adapted: Array,
    adapter_of_token: Array,
    x: Array,
    lora_a: Array,
    lora_b: Array,
    ranks: Array,
    scales: Array,
    out: Array,
    n_rows: int,
    n_cols: int,
    max_rank: int,
    out_stride: int,
) -> None:
    """out[t] += scales[a] * (x[t] @ A.T) @ B.T for each token t with an adapter a: the low-rank
    update of a product (LoRA, Hu et al. 2021), beside a `matmul` of n_rows x n_cols.

    n_tokens int64 (1,), tokens of the step; n_adapted int64 (1,), how many of them have an adapter:
    at 0 nothing else is read.  adapter_of_token int32 (max_batch_tokens,), a's number, negative
    for a token without one, whose row of out stays as it is.  x float32 (max_batch_tokens,
    n_cols), what the product reads; out float32, what it has written, rows out_stride apart.
    lora_a float32 (n_adapters, max_rank, n_cols) and lora_b (n_adapters, n_rows, max_rank): A
    and B of each adapter are the first ranks[a] rows and columns; what lies beyond is not read.
    ranks int32 (n_adapters,), at most max_rank; scales float32 (n_adapters,), alpha / rank. The
    sums of a token have one order, whatever other tokens there are.
    """
    if not n_adapted[0]:
        return
    rows = np.lib.stride_tricks.as_strided(out, (int(n_tokens[0]), n_rows), (4 * out_stride, 4))
    for t, adapter in enumerate(adapter_of_token[: len(rows)]):
        if adapter >= 0:
            a, b = lora_a[adapter, : ranks[adapter]], lora_b[adapter, :, : ranks[adapter]]
            assert a.shape[1] == n_cols and b.shape[0] == n_rows and a.shape[0] <= max_rank
            rows[t] += (x[t] @ a.T * scales[adapter]) @ b.T
