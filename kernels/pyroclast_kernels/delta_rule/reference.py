"""What `delta_rule` means, in NumPy."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.delta_rule import TILE

Array = NDArray[Any]


def delta_rule(
    n_seqs: Array,
    seq_starts: Array,
    slots_in: Array,
    slots_out: Array,
    qkv: Array,
    alpha: Array,
    beta: Array,
    a: Array,
    dt_bias: Array,
    state: Array,
    out: Array,
    n_k_heads: int,
    n_v_heads: int,
    k_dim: int,
    v_dim: int,
    gate_stride: int,
    tiled: int,
) -> None:
    """The gated delta rule (Yang et al. 2024), token by token.  Each value head h has a state S
    (k_dim, v_dim) and reads the q and k of one key head; for each token of a sequence, in order:

        S = e^(a[h] * softplus(alpha[t, h] + dt_bias[h])) * S
        S = S + k (sigmoid(beta[t, h]) * (v - k S)),  k a column, v a row
        out[t, h] = q S

    The key head is h // (n_v_heads / n_k_heads), or, with tiled 1, h % n_k_heads.

    n_seqs int64 (1,).  seq_starts int32 (max_seqs + 1,): sequence i owns tokens [starts[i],
    starts[i + 1]).  qkv float32 (max_batch_tokens, 2 * n_k_heads * k_dim + n_v_heads * v_dim):
    the heads of q, of k, of v, as `conv1d` and `l2_norm` leave them.  alpha and beta float32, rows
    gate_stride apart, of which the first n_v_heads columns are read; a (negative) and dt_bias
    float32 (n_v_heads,).  out float32 (max_batch_tokens, n_v_heads * v_dim).

    state float32 (n_slots, *state_shape(n_v_heads, k_dim, v_dim)).  slots_in int32 (max_seqs,): the
    slot in which a sequence begins, negative for a state of zeros.  slots_out int32
    (max_batch_tokens,): the slot that takes the state after a token, negative for none; the last
    token of a sequence has one.  A sequence may write the slot in which it begins; no other
    sequence reads or writes a slot that it writes.  A slot of slots_out may hold anything until its
    token was written.

    A token's bits depend on its sequence alone, however it is cut into steps.
    """
    assert alpha.strides[0] == beta.strides[0] == alpha.itemsize * gate_stride
    n_tokens, key_columns, group = len(qkv), n_k_heads * k_dim, n_v_heads // n_k_heads
    key_head = np.arange(n_v_heads) % n_k_heads if tiled else np.arange(n_v_heads) // group
    q = qkv[:, :key_columns].reshape(n_tokens, n_k_heads, k_dim)
    k = qkv[:, key_columns : 2 * key_columns].reshape(n_tokens, n_k_heads, k_dim)
    v = qkv[:, 2 * key_columns :].reshape(n_tokens, n_v_heads, v_dim)
    for i, (first, end) in enumerate(pairwise(seq_starts[: int(n_seqs[0]) + 1])):
        s = np.zeros((n_v_heads, k_dim, v_dim), np.float32)
        if slots_in[i] >= 0:
            s = matrices(state[slots_in[i]])[:, :, :v_dim].copy()
        for t in range(first, end):
            decay = decay_of(alpha[t, :n_v_heads] + dt_bias, a)
            with np.errstate(over="ignore"):
                step = 1 / (1 + np.exp(-beta[t, :n_v_heads]))
            k_t, q_t = k[t, key_head], q[t, key_head]
            s *= decay[:, None, None]
            delta = step[:, None] * (v[t] - np.einsum("hk,hkv->hv", k_t, s))
            s += k_t[:, :, None] * delta[:, None, :]
            out[t] = np.einsum("hk,hkv->hv", q_t, s).reshape(-1)
            if slots_out[t] >= 0:
                state[slots_out[t]] = tiles(s)


def decay_of(x: Array, a: Array) -> Array:
    """e^(a * softplus(x)), softplus(x) = ln(1 + e^x)."""
    decay: Array = np.exp(a * np.logaddexp(np.float32(0), x))
    return decay


def matrices(slot: Array) -> Array:
    """A slot's heads as matrices (n_v_heads, k_dim, v_dim rounded up to whole tiles)."""
    n_v_heads, n_tiles, k_dim, width = slot.shape
    return slot.transpose(0, 2, 1, 3).reshape(n_v_heads, k_dim, n_tiles * width)


def tiles(s: Array) -> Array:
    """Matrices (n_v_heads, k_dim, v_dim) in a slot's layout, with zeros beyond v_dim."""
    n_v_heads, k_dim, v_dim = s.shape
    padded = np.pad(s, ((0, 0), (0, 0), (0, -v_dim % TILE)))
    return padded.reshape(n_v_heads, k_dim, -1, TILE).transpose(0, 2, 1, 3)
