"""What `rope_table` and `rope` mean, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.attention import cache

Array = NDArray[Any]


def rope_table(
    n_tokens: Array,
    positions: Array,
    inv_freq: Array,
    out: Array,
    half_dim: int,
    amplitude: float,
) -> None:
    """out[t] = amplitude * (cos and sin of positions[t] * inv_freq), for every token of the step.

    n_tokens int64 (1,); positions int32 (max_batch_tokens,); inv_freq float32 (half_dim,); out
    float32 (max_batch_tokens, 2, half_dim).  The angle is a float32 product, as the models were
    trained with.  An amplitude other than 1 belongs to YaRN (Peng et al. 2023) and LongRoPE (Ding
    et al. 2024).
    """
    t = int(n_tokens[0])
    angles = positions[:t, None].astype(np.float32) * inv_freq[None, :half_dim]
    out[:t, 0] = amplitude * np.cos(angles.astype(np.float64))
    out[:t, 1] = amplitude * np.sin(angles.astype(np.float64))


def rope(
    n_tokens: Array,
    positions: Array,
    seq_index: Array,
    block_tables: Array,
    table: Array,
    qkv: Array,
    k_cache: Array,
    v_cache: Array,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    block_size: int,
    max_blocks: int,
    value_stride: int,
    temperature: float,
    temperature_length: int,
) -> None:
    """Rotates the query and key heads in place and writes keys and values to the cache.

    n_tokens int64 (1,); qkv float32 (max_batch_tokens, (n_heads + 2 * n_kv_heads) * head_dim);
    table as of rope_table, of half_dim rotary_dim / 2.  The first rotary_dim dimensions of a head
    are rotated, in pairs (i, i + rotary_dim / 2): the half-split convention of Su et al. 2021 as
    Hugging Face spells it.  rotary_dim is even; with 0 nothing is rotated, and table is not read.
    With temperature > 0 queries are multiplied by 1 + temperature * ln(1 + floor(position /
    temperature_length)) as well, keys are not.  Position p of row s of block_tables (max_seqs,
    max_blocks) lives in block block_tables[s, p // block_size], slot p % block_size, of k_cache
    and v_cache (n_blocks, n_kv_heads, ...), laid out as attention/cache.py says; value_stride is
    head_dim rounded up to a multiple of 16.  n_kv_heads may be 0: then all are queries, and nothing
    is written.
    """
    t, q_dim, half = int(n_tokens[0]), n_heads * head_dim, rotary_dim // 2
    n_rotated = n_heads + n_kv_heads
    heads = qkv[:t, : n_rotated * head_dim].reshape(t, n_rotated, head_dim)
    if half:
        cosine, sine = table[:t, None, 0], table[:t, None, 1]
        a, b = heads[..., :half].copy(), heads[..., half:rotary_dim].copy()
        heads[..., :half] = a * cosine - b * sine
        heads[..., half:rotary_dim] = b * cosine + a * sine
    if temperature > 0:
        steps = 1 + positions[:t].astype(np.int64) // temperature_length
        growth = (1 + temperature * np.log(steps.astype(np.float64))).astype(np.float32)
        heads[:, :n_heads] *= growth[:, None, None]
    qkv[:t, : n_rotated * head_dim] = heads.reshape(t, -1)
    k = qkv[:t, q_dim : q_dim + n_kv_heads * head_dim].reshape(t, n_kv_heads, head_dim)
    v = qkv[:t, q_dim + n_kv_heads * head_dim :].reshape(t, n_kv_heads, head_dim)
    position = positions[:t]
    block = block_tables[seq_index[:t], position // block_size]
    slot = position % block_size
    if n_kv_heads:
        cache.write(k_cache, v_cache, block, slot, k, v, block_size)
