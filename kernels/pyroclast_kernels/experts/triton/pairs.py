"""What the products of experts share in Triton: whose tile a program has, and how it ends.

How many tiles there are depends on who chose which expert, which only the device knows.  The grid
has room for the most that there can be; a program finds its expert among the sums of the experts'
tiles, and one too many returns.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.gate import activated
from pyroclast_kernels.activation.triton.quantize import store_quantized
from pyroclast_kernels.experts import EXPERT_ACTIVATIONS
from pyroclast_kernels.triton.math import exp

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits

_QUICK_GELU = tl.constexpr(EXPERT_ACTIVATIONS.index("quick_gelu"))


def n_tiles(limits: Limits, n_experts: int, n_active: int, tokens: int) -> int:
    """The most tiles of so many tokens that a step can have: each expert that is chosen may have
    one that is not full."""
    n_pairs = limits.n_tokens * n_active
    return (n_pairs + min(n_pairs, n_experts) * (tokens - 1)) // tokens


def share_of(limits: Limits, n_experts: int, n_active: int) -> int:
    """How many tokens an expert has on average, for which a tile is chosen."""
    return triton.cdiv(limits.n_tokens * n_active, n_experts)  # type: ignore[no-any-return]


@triton.jit
def tile_at(starts, order, tile, n_experts, tokens: tl.constexpr, block_experts: tl.constexpr):
    """(expert, pairs (tokens,), which of them exist) of a tile; beyond the last, n_experts."""
    e = tl.arange(0, block_experts)
    begin = tl.load(starts + e, e < n_experts, 0)
    count = tl.load(starts + e + 1, e < n_experts, 0) - begin
    tiles = (count + tokens - 1) // tokens
    ends = tl.cumsum(tiles, 0)
    expert = tl.sum(((ends <= tile) & (e < n_experts)).to(tl.int32))
    is_own = e == expert
    place = tile - tl.sum(tl.where(is_own, ends - tiles, 0))
    i = place * tokens + tl.arange(0, tokens)
    has_pair = i < tl.sum(tl.where(is_own, count, 0))
    return expert, tl.load(order + tl.sum(tl.where(is_own, begin, 0)) + i, has_pair, 0), has_pair


@triton.jit
def _clamped(gate, up, limit, up_offset, has_limit: tl.constexpr, has_offset: tl.constexpr):
    if has_limit:
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
    if has_offset:
        up += up_offset
    return gate, up


@triton.jit
def store_gated(
    gate, up, bias, out, out_q8, expert, pair, has_pair, column, d_ff, limit, up_offset,
    gated: tl.constexpr, has_limit: tl.constexpr, has_offset: tl.constexpr,
    activation: tl.constexpr,
):  # fmt: skip
    """The results of gate and up (tokens, columns), whole blocks of 32 from `column` on."""
    i = column + tl.arange(0, gate.shape[1])
    has_column = i < d_ff
    if bias is not None:
        of_expert = bias + expert.to(tl.int64) * (1 + gated) * d_ff + i
        gate += tl.load(of_expert, has_column, 0.0)[None, :]
        if gated:
            up += tl.load(of_expert + d_ff, has_column, 0.0)[None, :]
    gate, up = _clamped(gate, up, limit, up_offset, has_limit, has_offset)
    if activation == _QUICK_GELU:
        y = gate / (1.0 + exp(-1.702 * gate))
    else:
        y = activated(gate, activation)
    if gated:
        y = y * up
    row = pair.to(tl.int64)[:, None]
    if out is not None:
        mask = has_pair[:, None] & has_column[None, :]
        tl.store(out + row * d_ff + i[None, :], y.to(out.dtype.element_ty), mask)
    if out_q8 is not None:
        n_blocks: tl.constexpr = gate.shape[1] // 32
        block = column // 32 + tl.arange(0, n_blocks)
        mask = has_pair[:, None] & (block < d_ff // 32)[None, :]
        y = tl.reshape(y, (gate.shape[0], n_blocks, 32))
        store_quantized(y, out_q8, row * (d_ff // 32) + block[None, :], mask)


@triton.jit
def store_down(y, bias, out, expert, pair, has_pair, row, has_row, n_rows):
    """y (rows, tokens), with the expert's bias where there is one."""
    if bias is not None:
        of_expert = bias + expert.to(tl.int64) * n_rows + row
        y += tl.load(of_expert, has_row, 0.0)[:, None]
    at = out + pair.to(tl.int64)[None, :] * n_rows + row[:, None]
    tl.store(at, y.to(out.dtype.element_ty), has_row[:, None] & has_pair[None, :])
