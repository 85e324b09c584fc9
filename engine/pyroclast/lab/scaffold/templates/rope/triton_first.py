# $contract

import os

import numpy as np
import torch
import triton
import triton.language as tl

OP = "rope"
FORMATS = ("f32",)
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def to_device(array):
    """A copy on the device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


@triton.jit
def kernel(qkv, table, width, head_dim, half, BLOCK: tl.constexpr):
    # One head of one token, in place; the sines follow the cosines.
    t, h, i = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    inside = i < half
    low = qkv + t * width + h * head_dim + i
    a, b = tl.load(low, mask=inside), tl.load(low + half, mask=inside)
    cosine = tl.load(table + t * 2 * half + i, mask=inside)
    sine = tl.load(table + t * 2 * half + half + i, mask=inside)
    tl.store(low, a * cosine - b * sine, mask=inside)
    tl.store(low + half, b * cosine + a * sine, mask=inside)


def rope_f32(
    n_tokens,
    positions,
    seq_index,
    block_tables,
    table,
    qkv,
    k_cache,
    v_cache,
    n_heads,
    n_kv_heads,
    head_dim,
    rotary_dim,
    block_size,
    max_blocks,
    value_stride,
    temperature,
    temperature_length,
):
    n, half, n_rotated = int(n_tokens[0]), rotary_dim // 2, n_heads + n_kv_heads
    if n and half:
        rotated, width = to_device(qkv[:n]), triton.next_power_of_2(half)
        sizes = qkv.shape[1], head_dim, half
        kernel[(n, n_rotated)](rotated, to_device(table[:n]), *sizes, BLOCK=width)
        qkv[:n] = rotated.cpu().numpy()
    if temperature > 0:
        steps = np.log(1.0 + positions[:n] // temperature_length)
        growth = (1 + temperature * steps).astype(np.float32)
        qkv[:n, : n_heads * head_dim] *= growth[:, None]
    # The cache lies in the computer's memory, not the GPU's: writing to it is NumPy's part.
    heads = qkv[:n].reshape(n, n_rotated + n_kv_heads, head_dim)
    block = block_tables[seq_index[:n], positions[:n] // block_size]
    slot = positions[:n] % block_size
    k_cache[block, :, :, slot] = heads[:, n_heads:n_rotated]
    v_cache[block, :, slot, :head_dim] = heads[:, n_rotated:]
