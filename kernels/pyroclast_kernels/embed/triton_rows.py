"""Rows of a weight in Triton, dequantized: a program per token and run of columns.

A value is scale * code + minimum, rounded after the product and after the sum as blocks.values_of
has it, and so is by * value + out: the kernels are compiled without fused multiply-adds, which
would round once.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul.triton.block_parts import minimum_of, scale_of
from pyroclast_kernels.triton.weights import NIBBLES
from pyroclast_kernels.weights.blocks import LAYOUTS

if TYPE_CHECKING:
    import torch

    from pyroclast_kernels.triton.launch import Limits
    from pyroclast_kernels.triton.weights import DeviceWeight

_COLUMNS = 1024  # of a program: 8 for each of its threads


@triton.jit
def _put(out, y, by, mask, accumulate: tl.constexpr):
    """out = by * y, or out += by * y."""
    y *= by
    if accumulate:
        y += tl.load(out, mask, 0.0).to(tl.float32)
    tl.store(out, y.to(out.dtype.element_ty), mask)


@triton.jit
def _values(
    n_tokens, token_ids, values, out, n_cols, by, columns: tl.constexpr, accumulate: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    row = tl.load(token_ids + token).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    mask = column < n_cols
    y = tl.load(values + row * n_cols + column, mask, 0.0).to(tl.float32)
    _put(out + token * n_cols + column, y, by, mask, accumulate)


@triton.jit
def _blocks(
    n_tokens, token_ids, codes, halves, small, out, n_cols, by, n_code_bytes,
    columns: tl.constexpr, accumulate: tl.constexpr, part_columns: tl.constexpr,
    n_halves: tl.constexpr, n_small: tl.constexpr, zero: tl.constexpr, nibbles: tl.constexpr,
):  # fmt: skip
    """by: the factor of a row; part_columns share a scale; n_code_bytes: of a row; zero: the code
    that means 0; n_small, nibbles: how scales and codes are kept."""
    token = tl.program_id(0).to(tl.int64)
    if token >= tl.load(n_tokens):
        return
    row = tl.load(token_ids + token).to(tl.int64)
    n_parts = n_cols // part_columns
    parts: tl.constexpr = columns // part_columns
    part = tl.program_id(1) * parts + tl.arange(0, parts)[:, None]
    column = part * part_columns + tl.arange(0, part_columns)[None, :]
    has_part, mask = part < n_parts, column < n_cols
    if nibbles:
        byte = tl.load(codes + row * n_code_bytes + column // 64 * 32 + column % 32, mask, 0)
        code = (byte >> (column % 64 // 32 * 4).to(tl.uint8)) & 15
    else:
        code = tl.load(codes + row * n_code_bytes + column, mask, 0)
    y = (code.to(tl.int32) - zero).to(tl.float32)
    y *= scale_of(halves, small, row, part, n_parts, has_part, part_columns, n_halves, n_small)
    if n_halves == 2:
        y += minimum_of(halves, small, row, part, n_parts, has_part, part_columns, n_small)
    _put(out + token * n_cols + column, y, by, mask, accumulate)


def launch_embed(
    limits: Limits,
    *,
    n_tokens: torch.Tensor,
    token_ids: torch.Tensor,
    weight: DeviceWeight,
    out: torch.Tensor,
    n_cols: int,
    scale: float,
    accumulate: int,
) -> None:
    """reference.embed of tensors; out float32 or bfloat16, rows n_cols apart."""
    if weight.n_cols != n_cols or out.shape[-1] != n_cols or not out.is_contiguous():
        raise KernelError(
            f"rows of {n_cols} columns need a weight and an output of that width, got "
            f"{weight.n_cols} columns and {tuple(out.shape)}, strides {out.stride()}"
        )
    grid = (max(1, limits.n_tokens), triton.cdiv(n_cols, _COLUMNS))
    if weight.values is not None:
        _values[grid](
            n_tokens,
            token_ids,
            weight.values,
            out,
            n_cols,
            scale,
            columns=_COLUMNS,
            accumulate=bool(accumulate),
            enable_fp_fusion=False,
        )
        return
    assert weight.codes is not None, "neither plain values nor blocks"
    layout = LAYOUTS[weight.format]
    _blocks[grid](
        n_tokens,
        token_ids,
        weight.codes,
        weight.halves,
        weight.small,
        out,
        n_cols,
        scale,
        weight.codes.stride(0),
        columns=_COLUMNS,
        accumulate=bool(accumulate),
        part_columns=layout.scale_columns,
        n_halves=layout.n_halves,
        n_small=layout.n_small,
        zero=0 if weight.format == "q8_0" else layout.offset,
        nibbles=weight.format in NIBBLES,
        enable_fp_fusion=False,
    )
