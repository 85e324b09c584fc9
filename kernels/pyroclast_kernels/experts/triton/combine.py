"""combine in Triton: a program per token and 1024 columns, slots added up in their order."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_COLUMNS = 1024


@triton.jit
def _combine(
    n_tokens, y, gates, out, n_cols, scale, n_active: tl.constexpr, accumulate: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    column = tl.program_id(1) * block + tl.arange(0, block)
    mask = column < n_cols
    total = tl.zeros((block,), tl.float32)
    for slot in range(n_active):
        row = token * n_active + slot
        values = tl.load(y + row * n_cols + column, mask, 0.0).to(tl.float32)
        total = tl.fma(tl.load(gates + row) + tl.zeros((block,), tl.float32), values, total)
    total = total * scale
    at = out + token * n_cols + column
    if accumulate:
        total = tl.load(at, mask, 0.0).to(tl.float32) + total
    tl.store(at, total.to(out.dtype.element_ty), mask)


def launch_combine(
    limits: Limits,
    n_tokens: torch.Tensor,
    y: torch.Tensor,
    gates: torch.Tensor,
    out: torch.Tensor,
    n_active: int,
    n_cols: int,
    scale: float,
    accumulate: int,
) -> None:
    """reference.combine of tensors; y and out float32 or bfloat16."""
    block = min(_COLUMNS, int(triton.next_power_of_2(max(16, n_cols))))
    grid = max(1, limits.n_tokens), triton.cdiv(n_cols, block)
    _combine[grid](n_tokens, y, gates, out, n_cols, scale, n_active, bool(accumulate), block)
