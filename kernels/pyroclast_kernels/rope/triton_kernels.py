"""rope_table and rope in Triton.

A program rotates one head of neighbouring tokens, and if it is a key's, writes that and the value
to the cache.  In a prompt neighbouring tokens have neighbouring slots, and the cache holds keys
with positions side by side: the lanes of a warp write one dimension of 32 tokens, which takes no
more than asking for it, since Triton lays lanes along the first axis of a tile whose addresses it
knows to be contiguous along neither.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl

from pyroclast_kernels.attention.triton.tile import to_bf16
from pyroclast_kernels.triton import device as triton_device

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_INTERPRETED = tl.constexpr(triton_device.INTERPRETED)
_BLOCK = tl.constexpr(32)  # cache.BLOCK_SIZE
_ANGLES = 256  # of a program of rope_table
_FEW = 8  # up to so many tokens, each has its own program
_TILE = 32  # tokens of a program otherwise


@triton.jit
def _rope_table(n_tokens, positions, inv_freq, out, half_dim, amplitude, n_angles: tl.constexpr):
    angle = tl.program_id(0) * n_angles + tl.arange(0, n_angles)
    token, i = angle // half_dim, angle % half_dim
    mask = token < tl.load(n_tokens)
    position = tl.load(positions + token, mask, 0).to(tl.float32)
    radians = (position * tl.load(inv_freq + i, mask, 0.0)).to(tl.float64)
    at = out + token * 2 * half_dim + i
    tl.store(at, (amplitude * tl.cos(radians)).to(tl.float32), mask)
    tl.store(at + half_dim, (amplitude * tl.sin(radians)).to(tl.float32), mask)


@triton.jit
def product(a, b):
    """a * b of float32, rounded by itself: with a sum behind it, it never becomes one fused
    multiply-add, so that a rotation has the same bits wherever it happens."""
    if _INTERPRETED:  # which knows no instructions, and fuses nothing
        return a * b
    return tl.inline_asm_elementwise(
        "mul.rn.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def growth(position, temperature, length):
    """float32: what the queries at a position are multiplied by."""
    steps = (1 + position // length).to(tl.float64)
    return (1.0 + temperature * tl.log(steps)).to(tl.float32)


@triton.jit
def _put(cells, at, x, mask):
    """Stores float32 x in the cells' type; bfloat16 come as their bits."""
    if cells.dtype.element_ty == tl.int16:
        tl.store(cells + at, (to_bf16(x).to(tl.int32, bitcast=True) >> 16).to(tl.int16), mask)
    else:
        tl.store(cells + at, x.to(cells.dtype.element_ty), mask)


@triton.jit
def put_keys(k_cache, block, slot, k, dim, mask):
    """k (tokens, dims): dimensions `dim` (1, dims) of one kv head, to the cells of slots `slot` of
    the blocks that begin at element `block`."""
    block, slot = block[:, None], slot[:, None]
    if k_cache.dtype.element_ty == tl.int16:
        at = block + (dim // 2) * (2 * _BLOCK) + slot * 2 + dim % 2
    else:
        at = block + dim * _BLOCK + slot
    _put(k_cache, at, k, mask)


@triton.jit
def put_values(v_cache, block, slot, v, dim, mask, value_stride: tl.constexpr):
    """v (tokens, dims), as put_keys."""
    block, slot = block[:, None], slot[:, None]
    if v_cache.dtype.element_ty == tl.int16:
        at = block + (slot // 2) * (2 * value_stride) + dim * 2 + slot % 2
    else:
        at = block + slot * value_stride + dim
    _put(v_cache, at, v, mask)


@triton.jit
def _rope(
    n_tokens, positions, seq_index, block_tables, table, qkv, k_cache, v_cache, max_blocks,
    temperature, temperature_length, n_heads: tl.constexpr, n_kv_heads: tl.constexpr,
    head_dim: tl.constexpr, rotary_dim: tl.constexpr, value_stride: tl.constexpr,
    tile: tl.constexpr, n_half: tl.constexpr, n_rest: tl.constexpr, n_values: tl.constexpr,
    grows: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of tokens, n_heads + n_kv_heads).  n_half, n_rest and n_values: powers of two
    that hold half of what rotates, what does not (0: nothing), and half a value.  Where nothing
    rotates n_half is 1, and every mask of those lanes is false."""
    token = tl.program_id(0) * tile + tl.arange(0, tile)
    head = tl.program_id(1)
    used = token < tl.load(n_tokens)
    half: tl.constexpr = rotary_dim // 2
    width: tl.constexpr = (n_heads + 2 * n_kv_heads) * head_dim
    x = qkv + token[:, None].to(tl.int64) * width + head * head_dim
    if grows:
        factor = growth(tl.load(positions + token, used, 0), temperature, temperature_length)
        factor = tl.where(head < n_heads, factor, 1.0)[:, None]
    dim = tl.arange(0, n_half)[None, :]
    mask = used[:, None] & (dim < half)
    angles = table + token[:, None] * rotary_dim + dim
    cosine, sine = tl.load(angles, mask, 0.0), tl.load(angles + half, mask, 0.0)
    a, b = tl.load(x + dim, mask, 0.0), tl.load(x + dim + half, mask, 0.0)
    first = product(a, cosine) - product(b, sine)
    second = product(b, cosine) + product(a, sine)
    if grows:
        first, second = first * factor, second * factor
    tl.store(x + dim, first, mask)
    tl.store(x + dim + half, second, mask)
    if n_rest > 0:
        rest_dim = rotary_dim + tl.arange(0, n_rest)[None, :]
        rest_mask = used[:, None] & (rest_dim < head_dim)
        rest = tl.load(x + rest_dim, rest_mask, 0.0)
        if grows:
            rest = rest * factor
            tl.store(x + rest_dim, rest, rest_mask)
    if head >= n_heads:
        position = tl.load(positions + token, used, 0)
        row = tl.load(seq_index + token, used, 0).to(tl.int64)
        block = tl.load(block_tables + row * max_blocks + position // _BLOCK, used, 0)
        block = block.to(tl.int64) * n_kv_heads + (head - n_heads)
        slot = position % _BLOCK
        keys = block * (head_dim * _BLOCK)
        put_keys(k_cache, keys, slot, first, dim, mask)
        put_keys(k_cache, keys, slot, second, dim + half, mask)
        if n_rest > 0:
            put_keys(k_cache, keys, slot, rest, rest_dim, rest_mask)
        half_value: tl.constexpr = head_dim // 2
        v_dim = tl.arange(0, n_values)[None, :]
        v_mask = used[:, None] & (v_dim < half_value)
        v = x + n_kv_heads * head_dim + v_dim
        v_a, v_b = tl.load(v, v_mask, 0.0), tl.load(v + half_value, v_mask, 0.0)
        values = block * (value_stride * _BLOCK)
        put_values(v_cache, values, slot, v_a, v_dim, v_mask, value_stride)
        put_values(v_cache, values, slot, v_b, v_dim + half_value, v_mask, value_stride)


def launch_rope_table(
    limits: Limits,
    n_tokens: torch.Tensor,
    positions: torch.Tensor,
    inv_freq: torch.Tensor,
    out: torch.Tensor,
    half_dim: int,
    amplitude: float,
) -> None:
    """reference.rope_table of tensors."""
    grid = (triton.cdiv(limits.n_tokens * half_dim, _ANGLES),)
    _rope_table[grid](n_tokens, positions, inv_freq, out, half_dim, amplitude, _ANGLES)


def launch_rope(
    limits: Limits,
    n_tokens: torch.Tensor,
    positions: torch.Tensor,
    seq_index: torch.Tensor,
    block_tables: torch.Tensor,
    table: torch.Tensor,
    qkv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    rotary_dim: int,
    max_blocks: int,
    value_stride: int,
    temperature: float,
    temperature_length: int,
    **_: Any,
) -> None:
    """reference.rope of tensors; caches float32, float16 or bfloat16."""
    import torch

    if k_cache.dtype == torch.bfloat16:
        k_cache, v_cache = k_cache.view(torch.int16), v_cache.view(torch.int16)
    tile = 1 if limits.n_tokens <= _FEW else _TILE
    _rope[(triton.cdiv(limits.n_tokens, tile), n_heads + n_kv_heads)](
        n_tokens,
        positions,
        seq_index,
        block_tables,
        table,
        qkv,
        k_cache,
        v_cache,
        max_blocks,
        temperature,
        temperature_length,
        n_heads,
        n_kv_heads,
        head_dim,
        rotary_dim,
        value_stride,
        tile,
        n_half=triton.next_power_of_2(max(1, rotary_dim // 2)),
        n_rest=triton.next_power_of_2(head_dim - rotary_dim),
        n_values=triton.next_power_of_2(head_dim // 2),
        grows=temperature > 0,
        num_warps=1 if tile == 1 else 4,
    )
