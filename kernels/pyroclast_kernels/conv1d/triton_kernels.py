"""conv1d in Triton: a program per sequence, 128 channels and share of the tokens, and after it a
kernel that keeps the states, as the slot where a sequence begins may be one that it writes.

A prompt's tokens are shared among 32 programs, each of which takes every 32nd of them; a token's
sum has one order whoever makes it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.gate import activated
from pyroclast_kernels.activation.triton.quantize import store_quantized
from pyroclast_kernels.conv1d import KINDS

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_GATED = tl.constexpr(KINDS.index("gated"))
_SILU = tl.constexpr(0)  # of ACTIVATIONS
_N_BLOCKS = tl.constexpr(4)  # of 32 channels, of a program
_SHARES = 32
_N_WARPS = 1


@triton.jit
def _input(
    x, state, slot, t, begin, column, mask, n_channels, x_stride, width: tl.constexpr,
    kind: tl.constexpr,
):  # fmt: skip
    """What the filter reads of token t, float32; slot: where the sequence that begins with token
    `begin` has its state."""
    is_new = t >= begin
    at = x + t * x_stride + column
    u = tl.load(at, mask & is_new, 0.0).to(tl.float32)
    if kind == _GATED:
        u = u * tl.load(at + 2 * n_channels, mask & is_new, 0.0).to(tl.float32)
    row = slot * (width - 1) + t - begin + width - 1
    before = tl.load(state + row * n_channels + column, mask & (t < begin) & (slot >= 0), 0.0)
    return tl.where(is_new, u, before)


@triton.jit
def _convolve(
    n_seqs, seq_starts, slots_in, x, weight, bias, state, out, out_q8, n_channels, x_stride,
    width: tl.constexpr, kind: tl.constexpr,
):  # fmt: skip
    seq = tl.program_id(0)
    if seq >= tl.load(n_seqs):
        return
    block = tl.program_id(1) * _N_BLOCKS + tl.arange(0, _N_BLOCKS)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < n_channels
    begin = tl.load(seq_starts + seq).to(tl.int64)
    end = tl.load(seq_starts + seq + 1).to(tl.int64)
    slot = tl.load(slots_in + seq).to(tl.int64)
    t = begin + tl.program_id(2)
    while t < end:
        y = tl.zeros((_N_BLOCKS, 32), tl.float32)
        for i in tl.static_range(width):
            u = _input(
                x, state, slot, t - width + 1 + i, begin, column, mask, n_channels, x_stride,
                width, kind,
            )  # fmt: skip
            w = tl.load(weight + i * n_channels + column, mask, 0.0).to(tl.float32)
            y = tl.fma(w, u, y)
        if bias is not None:
            y += tl.load(bias + column, mask, 0.0).to(tl.float32)
        if kind == _GATED:
            gate = tl.load(x + t * x_stride + n_channels + column, mask, 0.0).to(tl.float32)
            y = gate * y
        else:
            y = activated(y, _SILU)
        if out is not None:
            tl.store(out + t * n_channels + column, y.to(out.dtype.element_ty), mask)
        if out_q8 is not None:
            n = n_channels // 32
            store_quantized(y, out_q8, t * n + block, block < n)
        t += tl.num_programs(2)


@triton.jit
def _keep(
    n_seqs, seq_starts, slots_in, slots_out, x, state, n_channels, x_stride, width: tl.constexpr,
    kind: tl.constexpr,
):  # fmt: skip
    seq = tl.program_id(0)
    if seq >= tl.load(n_seqs):
        return
    block = tl.program_id(1) * _N_BLOCKS + tl.arange(0, _N_BLOCKS)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < n_channels
    begin = tl.load(seq_starts + seq).to(tl.int64)
    end = tl.load(seq_starts + seq + 1).to(tl.int64)
    slot = tl.load(slots_in + seq).to(tl.int64)
    for own in tl.static_range(2):  # the slot in which the sequence begins comes last
        t = begin
        while t < end:
            target = tl.load(slots_out + t).to(tl.int64)
            # Rows move down: what is read of a slot was not written before.
            for i in tl.static_range(width - 1):
                u = _input(
                    x, state, slot, t - width + 2 + i, begin, column, mask, n_channels, x_stride,
                    width, kind,
                )  # fmt: skip
                at = state + (target * (width - 1) + i) * n_channels + column
                is_due = (target >= 0) & ((target == slot) == (own == 1))
                tl.store(at, u, mask & is_due)
            t += 1


def launch_conv1d(
    limits: Limits,
    n_seqs: torch.Tensor,
    seq_starts: torch.Tensor,
    slots_in: torch.Tensor,
    slots_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    state: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    n_channels: int,
    width: int,
    x_stride: int,
    kind: int,
) -> None:
    """reference.conv1d of tensors; x, weight, bias and out float32 or bfloat16."""
    grid = max(1, limits.n_seqs), triton.cdiv(n_channels, 32 * _N_BLOCKS.value)
    shares = 1 if limits.decode else _SHARES
    _convolve[(*grid, shares)](
        n_seqs, seq_starts, slots_in, x, weight, bias, state, out, out_q8, n_channels, x_stride,
        width, kind, num_warps=_N_WARPS,
    )  # fmt: skip
    _keep[grid](
        n_seqs, seq_starts, slots_in, slots_out, x, state, n_channels, x_stride, width, kind,
        num_warps=_N_WARPS,
    )  # fmt: skip
