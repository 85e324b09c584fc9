"""delta_rule in Triton: a program per sequence, head and tile of 32 columns, which holds the tile
in registers while it goes through the sequence's tokens.

A prompt is not split, so its bits are those of single tokens.  A layer of 16 heads of 128 columns
has 64 programs per sequence.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.delta_rule import TILE
from pyroclast_kernels.triton.math import exp, sigmoid, softplus

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_TILE = tl.constexpr(TILE)
_N_WARPS = 4


@triton.jit
def _delta_rule(
    n_seqs, seq_starts, slots_in, slots_out, qkv, alpha, beta, a, dt_bias, state, out, n_k_heads,
    n_v_heads, v_dim, gate_stride, k_dim: tl.constexpr, block: tl.constexpr, tiled: tl.constexpr,
):  # fmt: skip
    seq = tl.program_id(0)
    if seq >= tl.load(n_seqs):
        return
    head, tile = tl.program_id(1), tl.program_id(2)
    k_head = head % n_k_heads if tiled else head // (n_v_heads // n_k_heads)
    row, lane = tl.arange(0, block), tl.arange(0, _TILE)
    column, stride = tile * _TILE + lane, 2 * n_k_heads * k_dim + n_v_heads * v_dim
    slot_values = n_v_heads * tl.num_programs(2) * k_dim * _TILE
    tile_at = (head * tl.num_programs(2) + tile) * k_dim * _TILE
    cell = state + tile_at + row[:, None] * _TILE + lane[None, :]
    is_row = (row < k_dim)[:, None]
    slot = tl.load(slots_in + seq).to(tl.int64)
    s = tl.load(cell + slot * slot_values, is_row & (slot >= 0), 0.0)
    rate, shift = tl.load(a + head).to(tl.float32), tl.load(dt_bias + head).to(tl.float32)
    t, end = tl.load(seq_starts + seq).to(tl.int64), tl.load(seq_starts + seq + 1).to(tl.int64)
    while t < end:
        q_at = qkv + t * stride + k_head * k_dim + row
        q = tl.load(q_at, row < k_dim, 0.0).to(tl.float32)
        k = tl.load(q_at + n_k_heads * k_dim, row < k_dim, 0.0).to(tl.float32)
        v_at = qkv + t * stride + 2 * n_k_heads * k_dim + head * v_dim + column
        v = tl.load(v_at, column < v_dim, 0.0).to(tl.float32)
        gate = t * gate_stride + head
        decay = exp(rate * softplus(tl.load(alpha + gate).to(tl.float32) + shift))
        step = sigmoid(tl.load(beta + gate).to(tl.float32))
        s = s * decay
        delta = step * (v - tl.sum(k[:, None] * s, axis=0))
        s = tl.fma(k[:, None], delta[None, :], s)
        y = tl.sum(q[:, None] * s, axis=0)
        y_at = out + (t * n_v_heads + head) * v_dim + column
        tl.store(y_at, y.to(out.dtype.element_ty), column < v_dim)
        target = tl.load(slots_out + t).to(tl.int64)
        tl.store(cell + target * slot_values, s, is_row & (target >= 0))
        t += 1


def launch_delta_rule(
    limits: Limits,
    n_seqs: torch.Tensor,
    seq_starts: torch.Tensor,
    slots_in: torch.Tensor,
    slots_out: torch.Tensor,
    qkv: torch.Tensor,
    alpha: torch.Tensor,
    beta: torch.Tensor,
    a: torch.Tensor,
    dt_bias: torch.Tensor,
    state: torch.Tensor,
    out: torch.Tensor,
    n_k_heads: int,
    n_v_heads: int,
    k_dim: int,
    v_dim: int,
    gate_stride: int,
    tiled: int,
) -> None:
    """reference.delta_rule of tensors; all but the state float32 or bfloat16."""
    grid = max(1, limits.n_seqs), n_v_heads, triton.cdiv(v_dim, TILE)
    block = int(triton.next_power_of_2(k_dim))
    _delta_rule[grid](
        n_seqs, seq_starts, slots_in, slots_out, qkv, alpha, beta, a, dt_bias, state, out,
        n_k_heads, n_v_heads, v_dim, gate_stride, k_dim, block, bool(tiled), num_warps=_N_WARPS,
    )  # fmt: skip
