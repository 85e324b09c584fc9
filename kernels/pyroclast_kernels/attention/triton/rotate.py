"""rope inside attention, for steps that only decode.

Every program rotates the query heads that it reads.  Those that see the newest position also rotate
its key, and write key and value to the cache before they read them there like any other; where
several do, they write the same bytes.  The bits are those of rope/triton_kernels.py.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from pyroclast_kernels.attention.triton.tile import to_bf16
from pyroclast_kernels.rope.triton_kernels import growth, product, put_keys, put_values

_BLOCK = tl.constexpr(32)  # cache.BLOCK_SIZE


@triton.jit
def _rotated(qkv, angles, at, dim, mask, rotary_dim: tl.constexpr):
    """float32 (rows, dims): dimensions `dim` (1, dims) of the heads that begin at qkv[at], at
    (rows,), the first rotary_dim of them rotated by the angles of their token: cosines, then
    sines."""
    half: tl.constexpr = rotary_dim // 2
    is_first = dim < half
    x = qkv + at[:, None]
    own = tl.load(x + dim, mask, 0.0)
    angle_mask = dim < rotary_dim
    other = tl.load(x + tl.where(is_first, dim + half, dim - half), mask & angle_mask, 0.0)
    angle_at = angles + tl.where(is_first, dim, dim - half)
    cosine = tl.load(angle_at, angle_mask, 0.0)
    sine = tl.load(angle_at + half, angle_mask, 0.0)
    sine = tl.where(is_first, -sine, sine)
    y = product(own, tl.broadcast_to(cosine, own.shape)) + product(
        other, tl.broadcast_to(sine, own.shape)
    )
    return tl.where(angle_mask, y, own)


@triton.jit
def rotated_rows(
    qkv, angles, at, mask, warmth, head_dim: tl.constexpr, rotary_dim: tl.constexpr,
    block_d: tl.constexpr, dot_type: tl.constexpr, in_pairs: tl.constexpr, grows: tl.constexpr,
):  # fmt: skip
    """tile.query_rows of heads that are not rotated yet; warmth: position, temperature and
    temperature_length, by which they grow."""
    factor = 1.0
    if grows:
        factor = growth(warmth[0], warmth[1], warmth[2])
    if in_pairs:
        dim = 2 * tl.arange(0, block_d // 2)[None, :]
        q_mask = mask[:, None] & (dim < head_dim)
        even = _rotated(qkv, angles, at, dim, q_mask, rotary_dim) * factor
        odd = _rotated(qkv, angles, at, dim + 1, q_mask, rotary_dim) * factor
        return to_bf16(even).to(dot_type), to_bf16(odd).to(dot_type)
    else:
        dim = tl.arange(0, block_d)[None, :]
        q_mask = mask[:, None] & (dim < head_dim)
        q = _rotated(qkv, angles, at, dim, q_mask, rotary_dim) * factor
        return q.to(dot_type), q.to(dot_type)


@triton.jit
def write_newest(
    qkv, angles, k_cache, v_cache, table, at, position, kv_head, n_heads: tl.constexpr,
    n_kv_heads: tl.constexpr, head_dim: tl.constexpr, rotary_dim: tl.constexpr,
    block_d: tl.constexpr, stride: tl.constexpr, in_pairs: tl.constexpr,
):  # fmt: skip
    """The rotated key and the value of a kv head of the token that begins at qkv[at], to its
    position in the cache; table: the blocks of its sequence."""
    if in_pairs:  # two to a word here; they are written one by one
        k_cache = k_cache.to(tl.pointer_type(tl.int16))
        v_cache = v_cache.to(tl.pointer_type(tl.int16))
    key_at = at + (n_heads + kv_head) * head_dim
    cell = tl.load(table + position // _BLOCK).to(tl.int64) * n_kv_heads + kv_head
    one, dim = tl.arange(0, 1), tl.arange(0, block_d)[None, :]
    mask, slot = dim < head_dim, position % _BLOCK + one
    k = _rotated(qkv, angles, key_at + one, dim, mask, rotary_dim)
    v = tl.load(qkv + key_at + n_kv_heads * head_dim + dim, mask, 0.0)
    put_keys(k_cache, cell * (head_dim * _BLOCK) + one, slot, k, dim, mask)
    put_values(v_cache, cell * (stride * _BLOCK) + one, slot, v, dim, mask, stride)
    tl.debug_barrier()  # from here on all threads of the program read them
