"""What `l2_norm` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def l2_norm(
    n_tokens: Array,
    qkv: Array,
    n_heads: int,
    head_dim: int,
    row_stride: int,
    eps: float,
    q_scale: float,
) -> None:
    """Each head x of the queries and of the keys in qkv becomes x / sqrt(sum(x^2) + eps), in place;
    queries are also multiplied by q_scale.  What lies behind them stays as it is.

    n_tokens int64 (1,); qkv float32 (max_batch_tokens, row_stride): n_heads heads of queries, then
    n_heads heads of keys, head_dim values each.
    """
    t, n_columns = int(n_tokens[0]), n_heads * head_dim
    assert qkv.strides[0] == qkv.itemsize * row_stride
    for first, scale in ((0, q_scale), (n_columns, 1.0)):
        x = qkv[:t, first : first + n_columns]
        heads = x.reshape(t, n_heads, head_dim)
        length = np.sqrt(np.square(heads).sum(axis=-1, keepdims=True) + np.float32(eps))
        x[:] = (heads / length * np.float32(scale)).reshape(t, n_columns)
