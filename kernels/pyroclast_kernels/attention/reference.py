"""What `attention` means, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.attention import cache

Array = NDArray[Any]


def attention(
    n_tokens: Array,
    n_seqs: Array,
    seq_starts: Array,
    positions: Array,
    block_tables: Array,
    qkv: Array,
    k_cache: Array,
    v_cache: Array,
    out: Array | None,
    out_q8: Array | None,
    scratch: Array,
    counters: Array,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    block_size: int,
    max_blocks: int,
    value_stride: int,
    window: int,
    scale: float,
    softcap: float,
    sinks: Array | None,
    max_splits: int,
    max_split_tokens: int,
) -> None:
    """out[t, h] = sum over p of softmax(scale * q[t, h] . k[p]) * v[p].

    A token at position P sees positions p <= P of its own sequence, the last `window` of them if
    window > 0.  scale > 0 is 1 / sqrt(head_dim) in most models.  With softcap > 0 a score becomes
    softcap * tanh(score / softcap).  sinks float32 (n_heads,) or None: a logit of each query head
    that takes part in its softmax, without a position or a value.  Query head h reads kv head h //
    (n_heads / n_kv_heads).  n_tokens, n_seqs int64 (1,); sequence s owns tokens [seq_starts[s],
    seq_starts[s + 1]) and row s of block_tables; qkv and the caches as of rope, which has run on
    this step's tokens.  out float32 (max_batch_tokens, n_heads * head_dim) and out_q8 Q8_BLOCK of
    the same rows are both optional; out_q8 wants a head_dim in multiples of 32, since heads are
    quantized one by one.  block_size is 32.
    With a cache in bf16 the queries are rounded to bf16 first; compiled kernels round each
    exponential, relative to the largest of its split, to bf16 as well.  With q8_0 they round
    queries, and exponentials times the scales of the values, to 16 bits of the largest.
    scratch float32 (max_split_tokens, n_heads, max_splits, value_stride + 2) and counters int32
    (max_split_tokens * n_heads, zero between calls) serve kernels that share one token's positions
    among threads.  float32 sums over splits of 512 positions, in order.
    """
    t = int(n_tokens[0])
    y = np.zeros((t, n_heads, head_dim), np.float32)
    q = queries(qkv[:t], k_cache, n_heads, n_kv_heads, head_dim)
    for s in range(int(n_seqs[0])):
        for token in range(int(seq_starts[s]), int(seq_starts[s + 1])):
            end = int(positions[token]) + 1
            first = max(0, end - window) if window > 0 else 0
            blocks = block_tables[s, : -(-end // block_size)]
            k, v = cache.read(k_cache[blocks], v_cache[blocks], head_dim, block_size)
            weights = probs(q[token], k[:, :, first:end], scale, softcap, sinks)
            y[token] = (weights @ v[:, first:end]).reshape(n_heads, head_dim)
    q8_blocks.put(y.reshape(t, -1), out, out_q8)


def queries(qkv: Array, k_cache: Array, n_heads: int, n_kv_heads: int, head_dim: int) -> Array:
    """The queries of qkv's rows as they meet the keys of this cache: (n_rows, n_kv_heads,
    n_heads / n_kv_heads, head_dim)."""
    q = qkv[:, : n_heads * head_dim].reshape(len(qkv), n_kv_heads, -1, head_dim)
    return cache.from_bf16(cache.to_bf16(q)) if k_cache.dtype == np.uint16 else q


def probs(q: Array, k: Array, scale: float, softcap: float, sinks: Array | None) -> Array:
    """softmax(scale * q . k), capped and with sinks as attention says: q (n_kv_heads, group,
    head_dim) of one token, k (n_kv_heads, head_dim, n) of the positions that it sees ->
    (n_kv_heads, group, n)."""
    # A quotient: for 1 / sqrt(head_dim) the divisor is sqrt(head_dim), often a whole number.
    scores = q @ k / np.float32(1 / scale)
    if softcap > 0:
        scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
    top = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        sinks = sinks.reshape(*q.shape[:2], 1)
        top = np.maximum(top, sinks)
    weights: Array = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights /= total if sinks is None else total + np.exp(sinks - top)
    return weights
