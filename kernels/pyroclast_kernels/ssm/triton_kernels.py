"""ssm in Triton: a program per sequence, head and tile of 32 columns, as in delta_rule."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.delta_rule import TILE
from pyroclast_kernels.triton.math import exp, softplus

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_TILE = tl.constexpr(TILE)
_N_WARPS = 4


@triton.jit
def _ssm(
    n_seqs, seq_starts, slots_in, slots_out, xbc, dt, a, d, dt_bias, state, out, n_heads, head_dim,
    n_groups, dt_stride, dt_min, dt_max, d_state: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    seq = tl.program_id(0)
    if seq >= tl.load(n_seqs):
        return
    head, tile = tl.program_id(1), tl.program_id(2)
    group = head // (n_heads // n_groups)
    row, lane = tl.arange(0, block), tl.arange(0, _TILE)
    column, stride = tile * _TILE + lane, n_heads * head_dim + 2 * n_groups * d_state
    slot_values = n_heads * tl.num_programs(2) * d_state * _TILE
    tile_at = (head * tl.num_programs(2) + tile) * d_state * _TILE
    cell = state + tile_at + row[:, None] * _TILE + lane[None, :]
    is_row = (row < d_state)[:, None]
    slot = tl.load(slots_in + seq).to(tl.int64)
    s = tl.load(cell + slot * slot_values, is_row & (slot >= 0), 0.0)
    rate, skip = tl.load(a + head).to(tl.float32), tl.load(d + head).to(tl.float32)
    shift = tl.load(dt_bias + head).to(tl.float32)
    t, end = tl.load(seq_starts + seq).to(tl.int64), tl.load(seq_starts + seq + 1).to(tl.int64)
    while t < end:
        x_at = xbc + t * stride + head * head_dim + column
        x = tl.load(x_at, column < head_dim, 0.0).to(tl.float32)
        b_at = xbc + t * stride + n_heads * head_dim + group * d_state + row
        b = tl.load(b_at, row < d_state, 0.0).to(tl.float32)
        c = tl.load(b_at + n_groups * d_state, row < d_state, 0.0).to(tl.float32)
        step = softplus(tl.load(dt + t * dt_stride + head).to(tl.float32) + shift)
        step = tl.where(step < dt_min, dt_min, step)  # a NaN passes both limits
        step = tl.where(step > dt_max, dt_max, step)
        s = tl.fma(b[:, None], (step * x)[None, :], s * exp(rate * step))
        y = tl.fma(skip, x, tl.sum(c[:, None] * s, axis=0))
        y_at = out + (t * n_heads + head) * head_dim + column
        tl.store(y_at, y.to(out.dtype.element_ty), column < head_dim)
        target = tl.load(slots_out + t).to(tl.int64)
        tl.store(cell + target * slot_values, s, is_row & (target >= 0))
        t += 1


def launch_ssm(
    limits: Limits,
    n_seqs: torch.Tensor,
    seq_starts: torch.Tensor,
    slots_in: torch.Tensor,
    slots_out: torch.Tensor,
    xbc: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    d: torch.Tensor,
    dt_bias: torch.Tensor,
    state: torch.Tensor,
    out: torch.Tensor,
    n_heads: int,
    head_dim: int,
    n_groups: int,
    d_state: int,
    dt_stride: int,
    dt_min: float,
    dt_max: float,
) -> None:
    """reference.ssm of tensors; all but the state float32 or bfloat16."""
    grid = max(1, limits.n_seqs), n_heads, triton.cdiv(head_dim, TILE)
    block = int(triton.next_power_of_2(d_state))
    _ssm[grid](
        n_seqs, seq_starts, slots_in, slots_out, xbc, dt, a, d, dt_bias, state, out, n_heads,
        head_dim, n_groups, dt_stride, dt_min, dt_max, d_state, block, num_warps=_N_WARPS,
    )  # fmt: skip
