"""quantize and glu in Triton: a program per token and 1024 columns, 32 blocks of 32.

Both are bound by memory: of each column quantize reads 4 bytes and writes 2, glu reads 8 (4 without
a gate) and writes 4 in float32, 2 in bfloat16 or in blocks.  A thread holds 8 columns.  No sum runs
across blocks, so how columns are cut into programs changes no bit.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.activation.triton.gate import activated, gated
from pyroclast_kernels.activation.triton.quantize import store_quantized

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits

_N_BLOCKS = tl.constexpr(32)  # of a program
_N_WARPS = 4


@triton.jit
def _quantize(n_tokens, x, out_q8, n_cols):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    block = tl.program_id(1) * _N_BLOCKS + tl.arange(0, _N_BLOCKS)
    column = block[:, None] * 32 + tl.arange(0, 32)
    values = tl.load(x + token * n_cols + column, column < n_cols, 0.0).to(tl.float32)
    n_blocks = n_cols // 32
    store_quantized(values, out_q8, token * n_blocks + block, block < n_blocks)


@triton.jit
def _glu(n_tokens, gate_up, out, out_q8, d_ff, activation: tl.constexpr, has_up: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    block = tl.program_id(1) * _N_BLOCKS + tl.arange(0, _N_BLOCKS)
    column = block[:, None] * 32 + tl.arange(0, 32)
    row = gate_up + token * (2 * d_ff if has_up else d_ff) + column
    gate = tl.load(row, column < d_ff, 0.0).to(tl.float32)
    if has_up:
        up = tl.load(row + d_ff, column < d_ff, 0.0).to(tl.float32)
        y = gated(gate, up, activation)
    else:
        y = activated(gate, activation)
    if out is not None:
        tl.store(out + token * d_ff + column, y.to(out.dtype.element_ty), column < d_ff)
    if out_q8 is not None:
        n_blocks = d_ff // 32
        store_quantized(y, out_q8, token * n_blocks + block, block < n_blocks)


def _grid(limits: Limits, n_cols: int) -> tuple[int, int]:
    return max(1, limits.n_tokens), triton.cdiv(n_cols, 32 * _N_BLOCKS.value)


def launch_quantize(
    limits: Limits, n_tokens: torch.Tensor, x: torch.Tensor, out_q8: torch.Tensor, n_cols: int
) -> None:
    """reference.quantize of tensors; x float32 or bfloat16."""
    _quantize[_grid(limits, n_cols)](n_tokens, x, out_q8, n_cols, num_warps=_N_WARPS)


def launch_glu(
    limits: Limits,
    n_tokens: torch.Tensor,
    gate_up: torch.Tensor,
    out: torch.Tensor | None,
    out_q8: torch.Tensor | None,
    d_ff: int,
    activation: int,
    gated: int,
) -> None:
    """reference.glu of tensors; gate_up and out float32 or bfloat16."""
    grid = _grid(limits, d_ff)
    _glu[grid](
        n_tokens, gate_up, out, out_q8, d_ff, activation, has_up=bool(gated), num_warps=_N_WARPS
    )
