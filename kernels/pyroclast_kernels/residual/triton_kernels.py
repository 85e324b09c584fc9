"""residual in Triton: a program per token, its row read once, normed as in norm/triton_kernels.py.

Without a norm, columns do not need each other, and a program takes 1024 of them.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.norm.triton_kernels import n_warps_of, normed
from pyroclast_kernels.residual import AS_IT_IS

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_COLUMNS = 1024  # of a program, without a norm
_AS_IT_IS = tl.constexpr(AS_IT_IS)


@triton.jit
def _residual(
    n_tokens, x, y, weight, bias, x_scale, d_model, eps, scale, kind: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    column = tl.program_id(1) * block + tl.arange(0, block)
    mask = column < d_model
    added = tl.load(y + token * d_model + column, mask, 0.0).to(tl.float32)
    at = x + token * d_model + column
    before = tl.load(at, mask, 0.0).to(tl.float32)
    if kind != _AS_IT_IS:
        gain = tl.load(weight + column, mask, 0.0).to(tl.float32)
        shift = None
        if bias is not None:
            shift = tl.load(bias + column, mask, 0.0).to(tl.float32)
        added = normed(added, gain, shift, mask, d_model, eps, kind)
    after = before + added * scale
    if x_scale is not None:
        after = after * tl.load(x_scale).to(tl.float32)
    tl.store(at, after.to(x.dtype.element_ty), mask)


def launch_residual(
    limits: Limits,
    n_tokens: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    x_scale: torch.Tensor | None,
    d_model: int,
    eps: float,
    kind: int,
    scale: float,
) -> None:
    """reference.residual of tensors; x, y, weight and bias float32 or bfloat16."""
    block = _COLUMNS if kind == AS_IT_IS else int(triton.next_power_of_2(d_model))
    grid = max(1, limits.n_tokens), triton.cdiv(d_model, block)
    _residual[grid](
        n_tokens, x, y, weight, bias, x_scale, d_model, eps, scale, kind, block,
        num_warps=n_warps_of(block),
    )  # fmt: skip
