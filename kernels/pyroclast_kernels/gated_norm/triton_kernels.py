"""gated_norm in Triton: a program per token and group, whose columns it holds in registers.
sigmoid_gate: a program per token and 1024 columns.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.gate import activated
from pyroclast_kernels.activation.triton.quantize import store_quantized
from pyroclast_kernels.gated_norm import KINDS
from pyroclast_kernels.norm.triton_kernels import n_blocks_of, n_warps_of
from pyroclast_kernels.triton.math import sigmoid

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_GATE_FIRST = tl.constexpr(KINDS.index("gate_first"))
_SILU = tl.constexpr(0)  # of ACTIVATIONS
_N_BLOCKS = tl.constexpr(32)  # of a program of sigmoid_gate
_N_WARPS = 4


@triton.jit
def _gated_norm(
    n_tokens, x, gate, weight, out, out_q8, n_groups, width, gate_stride, weight_stride, eps,
    kind: tl.constexpr, n_blocks: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    group = tl.program_id(1)
    block = tl.arange(0, n_blocks)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < width
    first = (token * n_groups + group) * width
    y = tl.load(x + first + column, mask, 0.0).to(tl.float32)
    g = tl.load(gate + token * gate_stride + group * width + column, mask, 0.0).to(tl.float32)
    gain = tl.load(weight + group * weight_stride + column, mask, 0.0).to(tl.float32)
    factor = activated(g, _SILU)
    if kind == _GATE_FIRST:
        y = y * factor
    scale = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(y * y) / width + eps))
    if kind != _GATE_FIRST:
        y = y * factor
    y = y * scale * gain
    if out is not None:
        tl.store(out + first + column, y.to(out.dtype.element_ty), mask)
    if out_q8 is not None:
        n = width // 32
        store_quantized(y, out_q8, (token * n_groups + group) * n + block, block < n)


@triton.jit
def _sigmoid_gate(n_tokens, x, gate, out_q8, n_cols, gate_stride):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    block = tl.program_id(1) * _N_BLOCKS + tl.arange(0, _N_BLOCKS)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < n_cols
    at = x + token * n_cols + column
    g = tl.load(gate + token * gate_stride + column, mask, 0.0).to(tl.float32)
    y = tl.load(at, mask, 0.0).to(tl.float32) * sigmoid(g)
    tl.store(at, y.to(x.dtype.element_ty), mask)
    if out_q8 is not None:
        n = n_cols // 32
        store_quantized(y, out_q8, token * n + block, block < n)


def launch_gated_norm(
    limits: Limits,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    gate: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    n_groups: int,
    width: int,
    gate_stride: int,
    weight_stride: int,
    eps: float,
    kind: int,
) -> None:
    """reference.gated_norm of tensors; x, gate, weight and out float32 or bfloat16."""
    n_blocks = n_blocks_of(width)
    grid = max(1, limits.n_tokens), n_groups
    _gated_norm[grid](
        n_tokens, x, gate, weight, out, out_q8, n_groups, width, gate_stride, weight_stride, eps,
        kind, n_blocks, num_warps=n_warps_of(32 * n_blocks),
    )  # fmt: skip


def launch_sigmoid_gate(
    limits: Limits,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    gate: torch.Tensor,
    out_q8: torch.Tensor | None,
    n_cols: int,
    gate_stride: int,
) -> None:
    """reference.sigmoid_gate of tensors; x and gate float32 or bfloat16."""
    grid = max(1, limits.n_tokens), triton.cdiv(n_cols, 32 * _N_BLOCKS.value)
    _sigmoid_gate[grid](n_tokens, x, gate, out_q8, n_cols, gate_stride, num_warps=_N_WARPS)
