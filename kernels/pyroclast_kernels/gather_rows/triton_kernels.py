"""gather_rows in Triton: a program per row and 1024 columns of it."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_COLUMNS = 1024  # of a program


@triton.jit
def _gather_rows(n_tokens, rows, x, out, n_cols, block: tl.constexpr):
    i = tl.program_id(0).to(tl.int64)
    if i >= tl.load(n_tokens):
        return
    row = tl.load(rows + i).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    values = tl.load(x + row * n_cols + column, column < n_cols)
    tl.store(out + i * n_cols + column, values.to(out.dtype.element_ty), column < n_cols)


def launch_gather_rows(
    limits: Limits,
    n_tokens: torch.Tensor,
    rows: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    n_cols: int,
) -> None:
    """reference.gather_rows of tensors; x and out float32 or bfloat16."""
    grid = max(1, limits.n_tokens), triton.cdiv(n_cols, _COLUMNS)
    _gather_rows[grid](n_tokens, rows, x, out, n_cols, _COLUMNS)
