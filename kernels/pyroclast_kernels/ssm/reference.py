"""What `ssm` means, in NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.delta_rule.reference import matrices, tiles

Array = NDArray[Any]


def ssm(
    n_seqs: Array,
    seq_starts: Array,
    slots_in: Array,
    slots_out: Array,
    xbc: Array,
    dt: Array,
    a: Array,
    d: Array,
    dt_bias: Array,
    state: Array,
    out: Array,
    n_heads: int,
    head_dim: int,
    n_groups: int,
    d_state: int,
    dt_stride: int,
    dt_min: float,
    dt_max: float,
) -> None:
    """The state space model of Mamba 2 (Dao and Gu 2024), token by token.  Each head h has a state
    S (d_state, head_dim) and reads B and C of one group; for each token of a sequence, in order:

        step = softplus(dt[t, h] + dt_bias[h]), no less than dt_min and no more than dt_max
        S = e^(a[h] * step) * S + B (step * x), B a column, x a row
        out[t, h] = C S + d[h] * x

    The group is h // (n_heads / n_groups).

    n_seqs int64 (1,).  seq_starts int32 (max_seqs + 1,): sequence i owns tokens [starts[i],
    starts[i + 1]).  xbc float32 (max_batch_tokens, n_heads * head_dim + 2 * n_groups * d_state):
    the heads of x, the groups of B, of C, as `conv1d` leaves them.  dt float32, rows dt_stride
    apart, of which the first n_heads columns are read; a (negative), d and dt_bias float32
    (n_heads,).  out float32 (max_batch_tokens, n_heads * head_dim).

    state float32 (n_slots, *state_shape(n_heads, d_state, head_dim)); slots_in int32 (max_seqs,)
    and slots_out int32 (max_batch_tokens,) as in `delta_rule`.

    A token's bits depend on its sequence alone, however it is cut into steps.
    """
    assert dt.strides[0] == dt.itemsize * dt_stride
    n_tokens, columns = len(xbc), n_heads * head_dim
    group = np.arange(n_heads) // (n_heads // n_groups)
    x = xbc[:, :columns].reshape(n_tokens, n_heads, head_dim)
    b, c = xbc[:, columns:].reshape(n_tokens, 2, n_groups, d_state)[:, :, group].swapaxes(0, 1)
    steps = np.clip(np.logaddexp(np.float32(0), dt[:, :n_heads] + dt_bias), dt_min, dt_max)
    for i, (first, end) in enumerate(pairwise(seq_starts[: int(n_seqs[0]) + 1])):
        s = np.zeros((n_heads, d_state, head_dim), np.float32)
        if slots_in[i] >= 0:
            s = matrices(state[slots_in[i]])[:, :, :head_dim].copy()
        for t in range(first, end):
            step = steps[t].astype(np.float32)
            s *= np.exp(a * step)[:, None, None]
            s += b[t][:, :, None] * (step[:, None] * x[t])[:, None, :]
            out[t] = (np.einsum("hk,hkv->hv", c[t], s) + d[:, None] * x[t]).reshape(-1)
            if slots_out[t] >= 0:
                state[slots_out[t]] = tiles(s)
