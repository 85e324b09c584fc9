"""layer_input in Triton: a program per token, whose columns it holds in registers.

The norm is that of norm/triton_kernels.py, where no sum has an order.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.gate import gated
from pyroclast_kernels.activation.triton.quantize import store_quantized
from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.norm.triton_kernels import n_blocks_of, n_warps_of, normed

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_RMS = tl.constexpr(KINDS.index("rms"))


@triton.jit
def _layer_input(
    n_tokens, gate, embedded, projected, weight, out, out_q8, width, row_stride, eps, scale,
    activation: tl.constexpr, n_blocks: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    block = tl.arange(0, n_blocks)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < width
    values = tl.load(projected + token * row_stride + column, mask, 0.0).to(tl.float32)
    gain = tl.load(weight + column, mask, 0.0).to(tl.float32)
    added = tl.load(embedded + token * row_stride + column, mask, 0.0).to(tl.float32)
    g = tl.load(gate + token * width + column, mask, 0.0).to(tl.float32)
    y = normed(values, gain, None, mask, width, eps, _RMS)
    y = gated(g, (added + y) * scale, activation)
    if out is not None:
        tl.store(out + token * width + column, y.to(out.dtype.element_ty), mask)
    if out_q8 is not None:
        n = width // 32
        store_quantized(y, out_q8, token * n + block, block < n)


def launch_layer_input(
    limits: Limits,
    n_tokens: torch.Tensor,
    gate: torch.Tensor,
    embedded: torch.Tensor,
    projected: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    width: int,
    row_stride: int,
    activation: int,
    eps: float,
    scale: float,
) -> None:
    """reference.layer_input of tensors; all but out_q8 float32 or bfloat16."""
    n_blocks = n_blocks_of(width)
    _layer_input[(max(1, limits.n_tokens),)](
        n_tokens, gate, embedded, projected, weight, out, out_q8, width, row_stride, eps, scale,
        activation, n_blocks, num_warps=n_warps_of(32 * n_blocks),
    )  # fmt: skip
