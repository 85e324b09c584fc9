"""sparse_gate in Triton: a program per token, whose gate it holds in registers."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.norm.triton_kernels import n_warps_of

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits


@triton.jit
def _sparse_gate(n_tokens, gate_up, d_ff, row_stride, deviations, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    column = tl.arange(0, block)
    mask = column < d_ff
    at = gate_up + token * row_stride + column
    values = tl.load(at, mask, 0.0).to(tl.float32)
    # The second mean is of what is left by the first: see norm/triton_kernels.py.
    values = tl.where(mask, values - tl.sum(values) / d_ff, 0.0)
    values = tl.where(mask, values - tl.sum(values) / d_ff, 0.0)
    above = values - deviations * tl.sqrt_rn(tl.sum(values * values) / d_ff)
    above = tl.where(above < 0.0, 0.0, above)  # a NaN stays one
    tl.store(at, above.to(gate_up.dtype.element_ty), mask)


def launch_sparse_gate(
    limits: Limits,
    n_tokens: torch.Tensor,
    gate_up: torch.Tensor,
    d_ff: int,
    row_stride: int,
    deviations: float,
) -> None:
    """reference.sparse_gate of tensors; gate_up float32 or bfloat16."""
    block = int(triton.next_power_of_2(d_ff))
    _sparse_gate[(max(1, limits.n_tokens),)](
        n_tokens, gate_up, d_ff, row_stride, deviations, block, num_warps=n_warps_of(block)
    )
