"""low_rank in Triton: a program per token and 128 rows of its result.

Each program computes x A^T of its token for itself: A of one adapter (128 KiB at rank 16 and 2048
columns) lies in the L2 cache, and a second kernel would cost more than reading it there.  Sums run
over tiles of fixed size, so a token's bits depend on nothing but the token.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_ROWS = 128  # of a program
_COLUMNS = 128  # of x that are read at a time
_RANKS = 16  # that are computed at a time
_N_WARPS = 4


@triton.jit
def _low_rank(
    n_tokens, n_adapted, adapter_of_token, x, lora_a, lora_b, ranks, scales, out, n_rows,
    out_stride, n_cols: tl.constexpr, max_rank: tl.constexpr, block_rows: tl.constexpr,
    block_cols: tl.constexpr, block_ranks: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    if tl.load(n_adapted) == 0:
        return
    if token >= tl.load(n_tokens):
        return
    adapter = tl.load(adapter_of_token + token).to(tl.int64)
    if adapter < 0:
        return
    n_ranks, scale = tl.load(ranks + adapter), tl.load(scales + adapter)
    row = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    update = tl.zeros((block_rows,), tl.float32)
    for first in range(0, max_rank, block_ranks):
        r = first + tl.arange(0, block_ranks)
        a_row = lora_a + (adapter * max_rank + r)[:, None] * n_cols
        sums = tl.zeros((block_ranks, block_cols), tl.float32)
        for start in range(0, n_cols, block_cols):
            k = start + tl.arange(0, block_cols)
            values = tl.load(x + token * n_cols + k, k < n_cols, 0.0).to(tl.float32)
            mask = (r < n_ranks)[:, None] & (k < n_cols)[None, :]
            sums += tl.load(a_row + k[None, :], mask, 0.0) * values[None, :]
        projected = tl.sum(sums, axis=1) * scale
        b_row = lora_b + (adapter * n_rows + row)[:, None] * max_rank
        mask = (row < n_rows)[:, None] & (r < n_ranks)[None, :]
        update += tl.sum(tl.load(b_row + r[None, :], mask, 0.0) * projected[None, :], axis=1)
    at = out + token * out_stride + row
    y = tl.load(at, row < n_rows, 0.0).to(tl.float32) + update
    tl.store(at, y.to(out.dtype.element_ty), row < n_rows)


def launch_low_rank(
    limits: Limits,
    n_tokens: torch.Tensor,
    n_adapted: torch.Tensor,
    adapter_of_token: torch.Tensor,
    x: torch.Tensor,
    lora_a: torch.Tensor,
    lora_b: torch.Tensor,
    ranks: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    n_rows: int,
    n_cols: int,
    max_rank: int,
    out_stride: int,
) -> None:
    """reference.low_rank of tensors; x and out float32 or bfloat16."""
    grid = max(1, limits.n_tokens), triton.cdiv(n_rows, _ROWS)
    _low_rank[grid](
        n_tokens, n_adapted, adapter_of_token, x, lora_a, lora_b, ranks, scales, out, n_rows,
        out_stride, n_cols, max_rank, _ROWS, _COLUMNS, _RANKS, num_warps=_N_WARPS,
    )  # fmt: skip
