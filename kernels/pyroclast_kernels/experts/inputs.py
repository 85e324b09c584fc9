"""What the cases of this folder's products share: experts, who chose them, activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyroclast_kernels import q8_blocks
from pyroclast_kernels.cases import Arguments, Array
from pyroclast_kernels.experts import stacked_rows
from pyroclast_kernels.matmul.raw_rows import raw_rows
from pyroclast_kernels.route.reference import group
from pyroclast_kernels.weights import BLOCK_FORMATS, formats
from pyroclast_kernels.weights.packing import PackedWeight, pack_rows


@dataclass(frozen=True)
class Shape:
    """rows: d_ff, or what `expert_down` writes.  crowded: every token chose the first experts."""

    n_tokens: int
    n_experts: int
    n_active: int
    rows: int
    n_cols: int
    crowded: bool = False

    def __str__(self) -> str:
        experts = f"{self.n_experts}e{self.n_active}" + "-crowded" * self.crowded
        return f"{self.n_tokens}x{self.rows}x{self.n_cols}-{experts}"


def stack(rng: np.random.Generator, n_parts: int, shape: Shape, format: str) -> PackedWeight:
    """Random experts of n_parts times shape.rows rows each.  The rows that fill them up are random,
    too: they are not to be used."""
    n_rows = shape.n_experts * n_parts * stacked_rows(shape.rows)
    weight = PackedWeight.empty(format, n_rows, shape.n_cols)
    pack_rows(raw_rows(rng, n_rows, shape.n_cols, format), weight, 0)
    return weight


def chosen(shape: Shape, rng: np.random.Generator) -> Arguments:
    """order and starts: `group` of experts that are drawn."""
    drawn = rng.random((shape.n_tokens, shape.n_experts)).argsort(axis=1)[:, : shape.n_active]
    if shape.crowded:
        drawn[:] = np.arange(shape.n_active)
    order = np.full((shape.n_tokens + 1) * shape.n_active, 1 << 30, np.int32)
    starts = np.zeros(shape.n_experts + 1, np.int32)
    n_tokens = np.array([shape.n_tokens])
    group(n_tokens, drawn.astype(np.int32), order, starts, shape.n_experts, shape.n_active)
    return {"order": order, "starts": starts}


def activations(rng: np.random.Generator, n: int, shape: Shape, format: str) -> Array:
    x = rng.standard_normal((n, shape.n_cols)).astype(np.float32)
    x[0] *= 20  # gates far from zero
    x /= np.float32(np.sqrt(shape.n_cols))
    if format == "bf16":
        x.view(np.uint32)[:] &= 0xFFFF0000  # no variant may lose any of it
    return q8_blocks.quantize(x) if format in BLOCK_FORMATS else x


def weight_bytes(shape: Shape, n_rows: int, format: str) -> int:
    """Of the experts that are read: all of them, or one for every pair."""
    most = shape.n_active if shape.crowded else shape.n_tokens * shape.n_active
    return min(shape.n_experts, most) * n_rows * formats.row_bytes(shape.n_cols, format)
