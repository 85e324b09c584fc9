"""The paged key-value cache: what a block holds in each format, and how it is read and written.

A block holds the keys and values of BLOCK_SIZE positions of one kv head.  Whatever the format, a
vector of keys is 16 positions of one dimension and a vector of values 16 dimensions of one
position; where products are taken in pairs, the two terms of a pair lie side by side:

    format   dtype    keys of a block                     values of a block
    f32      float32  (head_dim, block)                   (block, stride)
    f16      float16  the same                            the same
    bf16     uint16   (head_dim / 2, block, 2)            (block / 2, stride, 2)
    q8_0     uint8    int8 as of bf16, then scales        int8 as of bf16, then scales
                      float16 (groups, block)             float16 (groups, block)

bf16 are the upper halves of float32.  q8_0 quantizes a position's head in groups of 32 dimensions
(the last may be shorter), as q8_blocks.quantize does, and keeps the scale as float16; a cell
reads as scale * quant.  stride is head_dim rounded up to a multiple of 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import q8_blocks

Array = NDArray[Any]

BLOCK_SIZE = 32
GROUP = q8_blocks.BLOCK
DTYPES: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "bf16": np.uint16,
    "q8_0": np.uint8,
}
_LANES = 16


def value_stride(head_dim: int) -> int:
    """Values of a head in the cache, padded to whole vectors."""
    return -(-head_dim // _LANES) * _LANES


def block_shapes(
    format: str, head_dim: int, block_size: int = BLOCK_SIZE
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the keys and of the values of one block and kv head, in elements of DTYPES."""
    stride, half = value_stride(head_dim), block_size // 2
    if format == "bf16":
        return (head_dim // 2, block_size, 2), (half, stride, 2)
    if format == "q8_0":
        scale_bytes = 2 * n_groups(head_dim) * block_size
        return (head_dim * block_size + scale_bytes,), (stride * block_size + scale_bytes,)
    return (head_dim, block_size), (block_size, stride)


def n_groups(head_dim: int) -> int:
    """Scales of one position's head in q8_0."""
    return -(-head_dim // GROUP)


def to_bf16(x: Array) -> Array:
    """float32 -> uint16, to nearest, ties to even; denormals become zero, as in hardware."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    magnitude, sign = bits & 0x7FFFFFFF, bits >> 16 & 0x8000
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(magnitude > 0x7F800000, (bits >> 16) | 64, rounded)
    return np.where(magnitude < 0x00800000, sign, rounded).astype(np.uint16)


def from_bf16(halves: Array) -> Array:
    """uint16 -> float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def read(k_cache: Array, v_cache: Array, head_dim: int, block_size: int) -> tuple[Array, Array]:
    """Blocks (n, n_kv_heads, ...) -> float32 keys (n_kv_heads, head_dim, n * block_size) and
    values (n_kv_heads, n * block_size, head_dim)."""
    if k_cache.dtype == np.uint8:
        k, v = _dequantize(k_cache, v_cache, head_dim, block_size)
    elif k_cache.dtype == np.uint16:
        k, v = from_bf16(k_cache), from_bf16(v_cache)
    else:
        k, v = k_cache.astype(np.float32), v_cache.astype(np.float32)
    if k.ndim == 5:  # pairs -> (n, heads, head_dim, block) and (n, heads, block, stride)
        k = k.swapaxes(3, 4).reshape(*k.shape[:2], head_dim, block_size)
        v = v.swapaxes(3, 4).reshape(*v.shape[:2], block_size, -1)
    n_kv_heads = k.shape[1]
    keys = k.transpose(1, 2, 0, 3).reshape(n_kv_heads, head_dim, -1)
    values = v.transpose(1, 0, 2, 3).reshape(n_kv_heads, -1, v.shape[-1])
    return keys, values[..., :head_dim]


def write(
    k_cache: Array, v_cache: Array, block: Array, slot: Array, k: Array, v: Array, block_size: int
) -> None:
    """Puts k and v, float32 (n, n_kv_heads, head_dim), where block (n,) and slot (n,) say."""
    head_dim, half = k.shape[-1], slot // 2
    if k_cache.dtype == np.uint8:
        _write_quantized(k_cache, v_cache, block, slot, k, v, block_size)
    elif k_cache.dtype == np.uint16:
        pairs = to_bf16(k).reshape(*k.shape[:2], head_dim // 2, 2)
        k_cache[block, :, :, slot] = pairs
        v_cache[block, :, half, :head_dim, slot % 2] = to_bf16(v)
    else:
        with np.errstate(over="ignore"):  # a value that float16 cannot hold becomes an infinity
            k_cache[block, :, :, slot] = k
            v_cache[block, :, slot, :head_dim] = v


# ---- q8_0 --------------------------------------------------------------------------------------


def _views(
    k_cache: Array, v_cache: Array, head_dim: int, block_size: int
) -> tuple[Array, Array, Array, Array]:
    """Quants and scales of the keys, quants and scales of the values, as views of the bytes."""
    stride, groups = value_stride(head_dim), n_groups(head_dim)
    n_keys, n_values = head_dim * block_size, stride * block_size
    heads = k_cache.shape[:2]
    return (
        k_cache[..., :n_keys].view(np.int8).reshape(*heads, head_dim // 2, block_size, 2),
        k_cache[..., n_keys:].view(np.float16).reshape(*heads, groups, block_size),
        v_cache[..., :n_values].view(np.int8).reshape(*heads, block_size // 2, stride, 2),
        v_cache[..., n_values:].view(np.float16).reshape(*heads, groups, block_size),
    )


def _dequantize(
    k_cache: Array, v_cache: Array, head_dim: int, block_size: int
) -> tuple[Array, Array]:
    """As float32, in the pairs of the bf16 layout."""
    k, k_scale, v, v_scale = _views(k_cache, v_cache, head_dim, block_size)
    k_scale = np.repeat(k_scale.astype(np.float32), GROUP // 2, axis=2)[:, :, : head_dim // 2]
    v_scale = np.repeat(v_scale.astype(np.float32), GROUP, axis=2)[:, :, : v.shape[3]]
    v_scale = v_scale.reshape(*v_scale.shape[:3], block_size // 2, 2).swapaxes(2, 3)
    with np.errstate(invalid="ignore"):
        return k * k_scale[..., None], v * v_scale


def _quantize(x: Array) -> tuple[Array, Array]:
    """(n, heads, head_dim) -> int8 of the same shape, float16 (n, heads, groups)."""
    n, heads, head_dim = x.shape
    padded = np.zeros((n * heads, n_groups(head_dim) * GROUP), np.float32)
    padded[:, :head_dim] = x.reshape(n * heads, head_dim)
    blocks = q8_blocks.quantize(padded)
    with np.errstate(over="ignore"):
        scales = blocks["scale"].astype(np.float16)
    quants = blocks["values"].reshape(n, heads, -1)[..., :head_dim]
    return quants, scales.reshape(n, heads, -1)


def _write_quantized(
    k_cache: Array, v_cache: Array, block: Array, slot: Array, k: Array, v: Array, block_size: int
) -> None:
    head_dim, half, odd = k.shape[-1], slot // 2, slot % 2
    quants_k, scales_k, quants_v, scales_v = _views(k_cache, v_cache, head_dim, block_size)
    q, scale = _quantize(k)
    quants_k[block, :, :, slot] = q.reshape(*q.shape[:2], head_dim // 2, 2)
    scales_k[block, :, :, slot] = scale
    q, scale = _quantize(v)
    quants_v[block, :, half, :head_dim, odd] = q
    scales_v[block, :, :, slot] = scale
