"""scale_logits in Triton: a program per row and 1024 columns of it."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.triton.math import tanh

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_COLUMNS = 1024  # of a program


@triton.jit
def _scale_logits(
    n_tokens, logits, n_cols, scale, softcap, columns: tl.constexpr, has_cap: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(n_tokens):
        return
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    at = logits + row * n_cols + column
    y = tl.load(at, column < n_cols, 0.0) * scale
    if has_cap:
        y = softcap * tanh(tl.div_rn(y, softcap))
    tl.store(at, y, column < n_cols)


def launch_scale_logits(
    limits: Limits,
    n_tokens: torch.Tensor,
    logits: torch.Tensor,
    n_cols: int,
    scale: float,
    softcap: float,
) -> None:
    """reference.scale_logits of tensors; logits float32, rows n_cols apart."""
    grid = max(1, limits.n_tokens), triton.cdiv(n_cols, _COLUMNS)
    _scale_logits[grid](
        n_tokens, logits, n_cols, scale, softcap, columns=_COLUMNS, has_cap=softcap > 0
    )
