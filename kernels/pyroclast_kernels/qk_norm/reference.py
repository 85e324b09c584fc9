"""What `qk_norm` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.norm.reference import normed

Array = NDArray[Any]
_RMS = KINDS.index("rms")


def qk_norm(
    n_tokens: Array,
    qkv: Array,
    q_weight: Array,
    k_weight: Array,
    v_weight: Array | None,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    eps: float,
    whole: int,
) -> None:
    """RMS norm of the queries and of the keys in qkv, in place (Henry et al. 2020): x becomes
    x / sqrt(mean(x^2) + eps) * weight.  So do the values, by head, where there is a v_weight.

    n_tokens int64 (1,); qkv float32 (max_batch_tokens, (n_heads + 2 * n_kv_heads) * head_dim).
    whole 0: x is one head, and both weights are float32 (head_dim,).  whole 1: x is all heads of a
    token's q, or of its k; q_weight is (n_heads * head_dim,), k_weight (n_kv_heads * head_dim,).
    v_weight is float32 (head_dim,) in both, or None.  n_kv_heads may be 0: then all are queries.
    """
    t, q_dim, kv_dim = int(n_tokens[0]), n_heads * head_dim, n_kv_heads * head_dim
    q, k, v = np.split(qkv[:t], [q_dim, q_dim + kv_dim], axis=1)
    norms = [(q, q_weight, q_dim if whole else head_dim)]
    norms += [(k, k_weight, kv_dim if whole else head_dim)] if n_kv_heads else []
    norms += [] if v_weight is None else [(v, v_weight, head_dim)]
    for x, weight, width in norms:
        x[:] = normed(x.reshape(-1, width), weight, None, eps, _RMS).reshape(x.shape)
