"""qk_norm in Triton: a program per token and head, or per token and one of q and k as a whole;
value heads have programs of their own.

A row is read once and normed as in norm/triton_kernels.py, where no sum has an order.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.norm import KINDS
from pyroclast_kernels.norm.triton_kernels import n_warps_of, normed

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_RMS = tl.constexpr(KINDS.index("rms"))


@triton.jit
def _qk_norm(
    n_tokens, qkv, q_weight, k_weight, v_weight, row_stride, n_q_rows, n_k_rows, q_width, k_width,
    v_width, eps, block: tl.constexpr,
):  # fmt: skip
    """The first n_q_rows programs of a token norm q_width columns each, n_k_rows then k_width, and
    the others v_width."""
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    row = tl.program_id(1)
    k_row, v_row = row - n_q_rows, row - n_q_rows - n_k_rows
    is_q, is_v = k_row < 0, v_row >= 0
    width = tl.where(is_q, q_width, tl.where(is_v, v_width, k_width))
    k_first = n_q_rows * q_width
    first = tl.where(is_q, row * q_width, k_first + k_row * k_width)
    first = tl.where(is_v, k_first + n_k_rows * k_width + v_row * v_width, first)
    column = tl.arange(0, block)
    mask = column < width
    at = qkv + token * row_stride + first + column
    values = tl.load(at, mask, 0.0).to(tl.float32)
    of_q = tl.load(q_weight + column, mask & is_q, 0.0).to(tl.float32)
    of_k = tl.load(k_weight + column, mask & (k_row >= 0) & (v_row < 0), 0.0).to(tl.float32)
    gain = of_q + of_k
    if v_weight is not None:
        gain += tl.load(v_weight + column, mask & is_v, 0.0).to(tl.float32)
    y = normed(values, gain, None, mask, width, eps, _RMS)
    tl.store(at, y.to(qkv.dtype.element_ty), mask)


def launch_qk_norm(
    limits: Limits,
    n_tokens: torch.Tensor,
    qkv: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    v_weight: torch.Tensor | None,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    eps: float,
    whole: int,
) -> None:
    """reference.qk_norm of tensors; qkv and the weights float32 or bfloat16."""
    q_dim, k_dim = n_heads * head_dim, n_kv_heads * head_dim
    n_q_rows, n_k_rows = (1, min(1, n_kv_heads)) if whole else (n_heads, n_kv_heads)
    q_width, k_width = (q_dim, k_dim) if whole else (head_dim, head_dim)
    block = int(triton.next_power_of_2(max(q_width, k_width)))
    n_v_rows = 0 if v_weight is None else n_kv_heads
    grid = max(1, limits.n_tokens), n_q_rows + n_k_rows + n_v_rows
    _qk_norm[grid](
        n_tokens, qkv, q_weight, k_weight, v_weight, q_dim + 2 * k_dim, n_q_rows, n_k_rows, q_width,
        k_width, head_dim, eps, block, num_warps=n_warps_of(block),
    )  # fmt: skip
