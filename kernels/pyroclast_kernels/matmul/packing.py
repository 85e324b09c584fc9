"""The packed weight layout of packed.h, in NumPy.

Rows are taken 16 at a time, one per SIMD lane; a group of 16 rows is one run of bytes, a multiple
of 64 long, the missing rows of the last group zero:
    block formats   per block of 32 columns (K formats: 256) a header: the float16 numbers of 16
                    rows side by side, then small integers likewise; then per block of 32 the codes
                    (codes.h; q8_0 with +128), 4 bytes of a row at a time, 16 rows side by side
    f32, f16, bf16  per column the 16 values
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import formats
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS
from pyroclast_kernels.matmul.blocks import (
    BLOCK,
    LAYOUTS,
    Blocks,
    pack_codes,
    quant_bytes,
    read_blocks,
    unpack_codes,
    values_of,
)

Array = NDArray[Any]

LANES = 16
_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
_ALIGN = 64
HUGE_PAGE = 2 << 20
# Rows are packed in runs of about this many values, so that temporaries stay small.
_RUN_VALUES = 1 << 22


def group_bytes(n_cols: int, format: str) -> int:
    """Bytes of a group of 16 packed rows."""
    if format not in FORMATS:
        raise KernelError(f"no packed layout for format {format!r}; there are {', '.join(FORMATS)}")
    if format in _VALUE_BYTES:
        return _round_up(n_cols * LANES * _VALUE_BYTES[format], _ALIGN)
    layout = LAYOUTS[format]
    if n_cols % layout.columns:
        raise KernelError(f"{format} needs a multiple of {layout.columns} columns, got {n_cols}")
    return _quants_offset(n_cols, format) + n_cols // BLOCK * quant_bytes(layout.bits) * LANES


def _quants_offset(n_cols: int, format: str) -> int:
    layout = LAYOUTS[format]
    return _round_up(n_cols // layout.columns * layout.header_bytes * LANES, _ALIGN)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight matrix (n_rows, n_cols) in packed groups: data uint8 (n_groups, group_bytes)."""

    format: str
    n_rows: int
    n_cols: int
    data: Array

    @classmethod
    def empty(cls, format: str, n_rows: int, n_cols: int) -> PackedWeight:
        """Zeroed, on a huge-page boundary; memory is touched only when rows are packed."""
        if n_rows < 1 or n_cols < 1:
            raise KernelError(f"a weight needs rows and columns, got {n_rows} x {n_cols}")
        n_groups, size = -(-n_rows // LANES), group_bytes(n_cols, format)
        align = HUGE_PAGE if n_groups * size >= HUGE_PAGE else _ALIGN
        memory = np.zeros(n_groups * size + align, np.uint8)
        start = -memory.ctypes.data % align
        return cls(
            format, n_rows, n_cols, memory[start : start + n_groups * size].reshape(-1, size)
        )

    @property
    def n_bytes(self) -> int:
        return self.data.nbytes

    @property
    def takes_q8(self) -> bool:
        """Whether products with this weight take activations quantized to 8 bits."""
        return self.format in BLOCK_FORMATS

    def dequantize(self, rows: Array | slice = slice(None)) -> Array:
        """float32 (n, n_cols) of the chosen rows."""
        return self.terms(rows)[0]

    def terms(self, rows: Array | slice = slice(None)) -> tuple[Array, Array]:
        """(values, minimums), both float32 (n, n_cols): see blocks.values_of."""
        ids = np.arange(self.n_rows)[rows]
        group, lane = ids // LANES, ids % LANES
        if self.format in LAYOUTS:
            return values_of(self._blocks(group, lane), self.format)
        raw = np.ascontiguousarray(self.value_cells()[group, :, lane]).reshape(len(ids), -1)
        values = formats.dequantize(raw, self.format)
        return values, np.zeros_like(values)

    def value_cells(self) -> Array:
        """f32, f16, bf16: uint8 (n_groups, n_cols, 16, value bytes), a view."""
        size = _VALUE_BYTES[self.format]
        return self.data[:, : self.n_cols * LANES * size].reshape(-1, self.n_cols, LANES, size)

    def _regions(self) -> tuple[Array, Array, Array]:
        """halves (n_groups, n_headers, n_halves, 16, 2), small (n_groups, n_headers, n_small, 16)
        and quants (n_groups, n_blocks, vectors, 16, 4): uint8 views of the groups."""
        layout, start = LAYOUTS[self.format], _quants_offset(self.n_cols, self.format)
        n_headers = self.n_cols // layout.columns
        size = layout.header_bytes * LANES
        n_groups, headers = len(self.data), self.data[:, : n_headers * size]
        headers = headers.reshape(n_groups, n_headers, size)
        split = 2 * layout.n_halves * LANES
        n_vectors = quant_bytes(layout.bits) // 4
        return (
            headers[:, :, :split].reshape(n_groups, n_headers, layout.n_halves, LANES, 2),
            headers[:, :, split:].reshape(n_groups, n_headers, layout.n_small, LANES),
            self.data[:, start:].reshape(n_groups, self.n_cols // BLOCK, n_vectors, LANES, 4),
        )

    def _blocks(self, group: Array, lane: Array) -> Blocks:
        """The rows that stand in these groups and lanes."""
        layout = LAYOUTS[self.format]
        halves, small, quants = self._regions()
        codes = unpack_codes(quants[group, :, :, lane], layout.bits)
        return Blocks(
            codes.reshape(len(group), -1, layout.columns),
            np.ascontiguousarray(halves[group, :, :, lane]).view("<f2")[..., 0],
            np.ascontiguousarray(small[group, :, :, lane]),
        )

    def put_blocks(self, blocks: Blocks, group: Array, lane: Array) -> None:
        """Puts rows into these groups and lanes."""
        halves, small, quants = self._regions()
        codes = blocks.codes.reshape(len(group), -1, BLOCK)
        quants[group, :, :, lane] = pack_codes(codes, LAYOUTS[self.format].bits)
        halves[group, :, :, lane] = blocks.halves.astype("<f2")[..., None].view(np.uint8)
        small[group, :, :, lane] = blocks.small


def pack_rows(raw: Array, weight: PackedWeight, row_offset: int) -> None:
    """Packs raw uint8 (n_rows, row_bytes) into rows [row_offset, row_offset + n_rows)."""
    step = max(1, _RUN_VALUES // weight.n_cols)
    for first in range(0, len(raw), step):
        run = raw[first : first + step]
        ids = np.arange(row_offset + first, row_offset + first + len(run))
        group, lane = ids // LANES, ids % LANES
        if weight.format in LAYOUTS:
            weight.put_blocks(read_blocks(run, weight.format), group, lane)
        else:
            size = _VALUE_BYTES[weight.format]
            weight.value_cells()[group, :, lane] = run.reshape(len(run), weight.n_cols, size)
