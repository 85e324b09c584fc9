"""gather_rows in Triton: a program per row and run of columns."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_COLUMNS = 1024  # of a program: 8 for each of its threads


@triton.jit
def _gather(n_tokens, rows, x, out, n_cols, columns: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    row = tl.load(rows + token).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    values = tl.load(x + row * n_cols + column, column < n_cols)
    tl.store(out + token * n_cols + column, values, column < n_cols)


def launch_gather_rows(
    limits: Limits,
    n_tokens: torch.Tensor,
    rows: torch.Tensor,
    x: torch.Tensor,
    out: torch.Tensor,
    n_cols: int,
) -> None:
    """reference.gather_rows of tensors."""
    grid = (max(1, limits.n_tokens), triton.cdiv(n_cols, _COLUMNS))
    _gather[grid](n_tokens, rows, x, out, n_cols, _COLUMNS)
