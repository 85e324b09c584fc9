"""RMS norm in Triton: a program per token, its row read once and kept in registers.

A thread holds 8 columns of a row of up to 4096, 16 of 8192; the squares are added up in a tree
whose shape depends on d_model and on which outputs there are, never on the tokens.  The weight is
read before the sum is there, so that one token waits for memory once, not twice.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton_quantize import store_quantized

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton_launch import Limits

_COLUMNS_OF_A_WARP = 256
_MAX_WARPS = 16


@triton.jit
def _norm(n_tokens, rows, x, weight, out, out_q8, d_model, eps, n_blocks: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    row = token
    if rows is not None:
        row = tl.load(rows + token).to(tl.int64)
    block = tl.arange(0, n_blocks)
    column = block[:, None] * 32 + tl.arange(0, 32)
    mask = column < d_model
    values = tl.load(x + row * d_model + column, mask, 0.0).to(tl.float32)
    gain = tl.load(weight + column, mask, 0.0).to(tl.float32)
    mean = tl.sum(values * values) / d_model
    y = values * tl.div_rn(1.0, tl.sqrt_rn(mean + eps)) * gain
    if out is not None:
        tl.store(out + token * d_model + column, y.to(out.dtype.element_ty), mask)
    if out_q8 is not None:
        n = d_model // 32
        store_quantized(y, out_q8, token * n + block, block < n)


def launch_norm(
    limits: Limits,
    n_tokens: torch.Tensor,
    rows: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    d_model: int,
    eps: float,
) -> None:
    """reference.norm of tensors; x, weight and out float32 or bfloat16."""
    n_blocks = triton.next_power_of_2(triton.cdiv(d_model, 32))
    n_warps = min(_MAX_WARPS, max(1, 32 * n_blocks // _COLUMNS_OF_A_WARP))
    grid = (max(1, limits.n_tokens),)
    _norm[grid](n_tokens, rows, x, weight, out, out_q8, d_model, eps, n_blocks, num_warps=n_warps)
