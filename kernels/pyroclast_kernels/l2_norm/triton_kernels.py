"""l2_norm in Triton: a program per token and head of the queries and keys."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_COLUMNS_OF_A_WARP = 256


@triton.jit
def _l2_norm(n_tokens, qkv, n_heads, head_dim, row_stride, eps, q_scale, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    head = tl.program_id(1)
    column = tl.arange(0, block)
    at = qkv + token * row_stride + head * head_dim + column
    x = tl.load(at, column < head_dim, 0.0).to(tl.float32)
    scale = tl.where(head < n_heads, q_scale, 1.0)
    y = x * tl.div_rn(scale.to(tl.float32), tl.sqrt_rn(tl.sum(x * x) + eps))
    tl.store(at, y.to(qkv.dtype.element_ty), column < head_dim)


def launch_l2_norm(
    limits: Limits,
    n_tokens: torch.Tensor,
    qkv: torch.Tensor,
    n_heads: int,
    head_dim: int,
    row_stride: int,
    eps: float,
    q_scale: float,
) -> None:
    """reference.l2_norm of tensors; qkv float32 or bfloat16."""
    block = int(triton.next_power_of_2(head_dim))
    grid = max(1, limits.n_tokens), 2 * n_heads
    n_warps = max(1, block // _COLUMNS_OF_A_WARP)
    _l2_norm[grid](
        n_tokens, qkv, n_heads, head_dim, row_stride, eps, q_scale, block, num_warps=n_warps
    )
