"""expert_gate_up and expert_down of f32, f16 and bf16 weights in Triton: the dots of
matmul/triton/values.py over rows of x that are gathered, with the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from pyroclast_kernels.experts import stacked_rows
from pyroclast_kernels.experts.triton.pairs import (
    n_tiles,
    share_of,
    store_down,
    store_gated,
    tile_at,
)
from pyroclast_kernels.matmul.triton.tiles import ValueTile, tile_of
from pyroclast_kernels.triton import device as triton_device

if TYPE_CHECKING:
    from pyroclast_kernels.triton.launch import Limits
    from pyroclast_kernels.triton.weights import DeviceWeight


@triton.jit
def _sums(
    x, weight, row, has_row, x_row, has_pair, x_stride, n_cols: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, dot: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    """float32 (block_m, block_n): rows of the weight (block_m,) by rows of x (block_n,)."""
    k = tl.arange(0, block_k)
    w_at = weight + row.to(tl.int64)[:, None] * n_cols + k[None, :]
    x_at = x + x_row.to(tl.int64)[None, :] * x_stride + k[:, None]
    y = tl.zeros((block_m, block_n), tl.float32)
    for start in range(0, n_cols, block_k):
        inside = start + k < n_cols
        w_tile = tl.load(w_at + start, has_row[:, None] & inside[None, :], 0.0)
        x_tile = tl.load(x_at + start, has_pair[None, :] & inside[:, None], 0.0)
        y = tl.dot(w_tile.to(dot), x_tile.to(dot), y, input_precision=precision)
    return y


@triton.jit
def _gate_up(
    n_tokens, order, starts, x, weight, bias, out, out_q8, n_experts, n_active, d_ff, stride,
    x_stride, limit, up_offset, n_cols: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    block_k: tl.constexpr, dot: tl.constexpr, precision: tl.constexpr,
    block_experts: tl.constexpr, gated: tl.constexpr, has_limit: tl.constexpr,
    has_offset: tl.constexpr, activation: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    expert, pair, has_pair = tile_at(
        starts, order, tl.program_id(1), n_experts, block_n, block_experts
    )
    if expert >= n_experts:
        return
    half: tl.constexpr = block_m // (1 + gated)
    first = tl.program_id(0) * half
    i = tl.arange(0, block_m)
    row = first + i % half
    of_expert = expert.to(tl.int64) * (1 + gated) * stride
    y = _sums(
        x, weight, of_expert + row + i // half * stride, row < d_ff, pair // n_active, has_pair,
        x_stride, n_cols, block_m, block_n, block_k, dot, precision,
    )  # fmt: skip
    if gated:
        gate, up = tl.split(tl.permute(tl.reshape(y, (2, half, block_n)), (2, 1, 0)))
    else:
        gate = tl.trans(y)
        up = gate
    store_gated(
        gate, up, bias, out, out_q8, expert, pair, has_pair, first, d_ff, limit, up_offset, gated,
        has_limit, has_offset, activation,
    )  # fmt: skip


@triton.jit
def _down(
    n_tokens, order, starts, x, weight, bias, out, n_experts, n_rows, stride, x_stride,
    n_cols: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
    dot: tl.constexpr, precision: tl.constexpr, block_experts: tl.constexpr,
):  # fmt: skip
    if tl.load(n_tokens) < 1:
        return
    expert, pair, has_pair = tile_at(
        starts, order, tl.program_id(1), n_experts, block_n, block_experts
    )
    if expert >= n_experts:
        return
    row = tl.program_id(0) * block_m + tl.arange(0, block_m)
    y = _sums(
        x, weight, expert.to(tl.int64) * stride + row, row < n_rows, pair, has_pair, x_stride,
        n_cols, block_m, block_n, block_k, dot, precision,
    )  # fmt: skip
    store_down(y, bias, out, expert, pair, has_pair, row, row < n_rows, n_rows)


def _tile(
    limits: Limits, x: torch.Tensor, weight: DeviceWeight, n_rows: int, n_experts: int,
    n_active: int, parts: int,
) -> ValueTile:  # fmt: skip
    """As matmul's for the tokens of an average share, with all rows of a tile in use."""
    share = max(1, share_of(limits, n_experts, n_active))
    return tile_of(weight.format, x.element_size(), n_rows, share, False, parts, whole=True)


def _launch(
    kernel: Any, limits: Limits, tile: ValueTile, n_row_tiles: int, x: torch.Tensor,
    weight: DeviceWeight, n_experts: int, n_active: int, results: dict[str, Any],
) -> None:  # fmt: skip
    kernel[(n_row_tiles, max(1, n_tiles(limits, n_experts, n_active, tile.n)))](
        x=x,
        weight=weight.values,
        n_experts=n_experts,
        x_stride=x.stride(0),
        n_cols=weight.n_cols,
        block_m=tile.m,
        block_n=tile.n,
        block_k=tile.k,
        dot=triton_device.dot_dtype("bf16" if weight.format == "bf16" else "f32"),
        precision="ieee" if weight.format == "f32" else "tf32",
        block_experts=int(triton.next_power_of_2(n_experts)),
        num_warps=tile.n_warps,
        num_stages=tile.n_stages,
        **results,
    )


def launch_value_gate_up(
    limits: Limits,
    *,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    weight: DeviceWeight,
    bias: torch.Tensor | None,
    order: torch.Tensor,
    starts: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    n_experts: int,
    n_active: int,
    d_ff: int,
    n_cols: int,
    activation: int,
    gated: int,
    limit: float,
    up_offset: float,
) -> None:
    """reference.expert_gate_up of tensors; x and out float32 or bfloat16."""
    assert n_cols == weight.n_cols
    tile = _tile(limits, x, weight, d_ff, n_experts, n_active, 1 + gated)
    results: dict[str, Any] = {"bias": bias, "out": out, "out_q8": out_q8, "n_tokens": n_tokens}
    results |= {"order": order, "starts": starts, "d_ff": d_ff, "stride": stacked_rows(d_ff)}
    results |= {"n_active": n_active, "limit": limit, "up_offset": up_offset, "gated": gated}
    results |= {"has_limit": limit > 0, "has_offset": up_offset != 0, "activation": activation}
    n_row_tiles = triton.cdiv(d_ff, tile.m // (1 + gated))
    _launch(_gate_up, limits, tile, n_row_tiles, x, weight, n_experts, n_active, results)


def launch_value_down(
    limits: Limits,
    *,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    weight: DeviceWeight,
    bias: torch.Tensor | None,
    order: torch.Tensor,
    starts: torch.Tensor,
    out: torch.Tensor,
    n_experts: int,
    n_active: int,
    n_rows: int,
    n_cols: int,
) -> None:
    """reference.expert_down of tensors; x and out float32 or bfloat16."""
    assert n_cols == weight.n_cols
    tile = _tile(limits, x, weight, n_rows, n_experts, n_active, 1)
    results: dict[str, Any] = {"n_tokens": n_tokens, "order": order, "starts": starts}
    results |= {"bias": bias, "out": out, "n_rows": n_rows, "stride": stacked_rows(n_rows)}
    n_row_tiles = triton.cdiv(n_rows, tile.m)
    _launch(_down, limits, tile, n_row_tiles, x, weight, n_experts, n_active, results)
