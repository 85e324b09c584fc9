"""The packed weight layout of packed.h, in NumPy.

Rows are taken 16 at a time, one per SIMD lane; a group of 16 rows is one run of bytes, a multiple
of 64 long, the missing rows of the last group zero:
    block formats   per block of 32 columns the 16 float16 scales (q4_1: and the 16 minimums), then
                    per block the quants, 4 bytes of a row at a time, 16 rows side by side
    f32, f16, bf16  per column the 16 values
q8_0 quants are stored with +128; nibbles stay in the order of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels import formats
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.matmul import BLOCK_FORMATS, FORMATS

Array = NDArray[Any]

LANES = 16
BLOCK = 32
# Per block: bytes of a row in the file, of which the header (scale, minimum).
_FILE_BYTES = {"q8_0": (34, 2), "q4_0": (18, 2), "q4_1": (20, 4)}
_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
_ALIGN = 64
HUGE_PAGE = 2 << 20


def group_bytes(n_cols: int, format: str) -> int:
    """Bytes of a group of 16 packed rows."""
    if format not in FORMATS:
        raise KernelError(f"no packed layout for format {format!r}; there are {', '.join(FORMATS)}")
    if format in _VALUE_BYTES:
        return _round_up(n_cols * LANES * _VALUE_BYTES[format], _ALIGN)
    if n_cols % BLOCK:
        raise KernelError(f"{format} needs a multiple of {BLOCK} columns, got {n_cols}")
    block, header = _FILE_BYTES[format]
    n_blocks = n_cols // BLOCK
    return _round_up(n_blocks * header * LANES, _ALIGN) + n_blocks * (block - header) * LANES


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

    def raw_rows(self, rows: Array | slice = slice(None)) -> Array:
        """Rows as they lie in a file: uint8 (n, row_bytes), the inverse of packing."""
        ids = np.arange(self.n_rows)[rows]
        group, lane = ids // LANES, ids % LANES
        if self.format in _VALUE_BYTES:
            size = _VALUE_BYTES[self.format]
            cells = self.data[:, : self.n_cols * LANES * size].reshape(-1, self.n_cols, LANES, size)
            return np.ascontiguousarray(cells[group, :, lane]).reshape(len(ids), -1)
        block, header = _FILE_BYTES[self.format]
        n_blocks = self.n_cols // BLOCK
        scales, quants = self._views(n_blocks, block, header)
        out = np.empty((len(ids), n_blocks, block), np.uint8)
        out[:, :, :header] = scales[group, :, :, lane].reshape(len(ids), n_blocks, header)
        out[:, :, header:] = quants[group, :, :, lane].reshape(len(ids), n_blocks, block - header)
        if self.format == "q8_0":
            out[:, :, header:] ^= 0x80
        return out.reshape(len(ids), -1)

    def _views(self, n_blocks: int, block: int, header: int) -> tuple[Array, Array]:
        """scales (n_groups, n_blocks, header / 2, 16, 2) and quants (n_groups, n_blocks, quads,
        16, 4), as uint8 views of the groups."""
        n_scales = n_blocks * header * LANES
        scales = self.data[:, :n_scales].reshape(-1, n_blocks, header // 2, LANES, 2)
        start = _round_up(n_scales, _ALIGN)
        quants = self.data[:, start:].reshape(-1, n_blocks, (block - header) // 4, LANES, 4)
        return scales, quants

    def dequantize(self, rows: Array | slice = slice(None)) -> Array:
        """float32 (n, n_cols) of the chosen rows."""
        return formats.dequantize(self.raw_rows(rows), self.format)


def pack_rows(raw: Array, weight: PackedWeight, row_offset: int) -> None:
    """Packs raw uint8 (n_rows, row_bytes) into rows [row_offset, row_offset + n_rows)."""
    ids = np.arange(row_offset, row_offset + len(raw))
    group, lane = ids // LANES, ids % LANES
    if weight.format in _VALUE_BYTES:
        size = _VALUE_BYTES[weight.format]
        cells = weight.data[:, : weight.n_cols * LANES * size]
        cells.reshape(-1, weight.n_cols, LANES, size)[group, :, lane] = raw.reshape(
            len(ids), weight.n_cols, size
        )
        return
    block, header = _FILE_BYTES[weight.format]
    n_blocks = weight.n_cols // BLOCK
    scales, quants = weight._views(n_blocks, block, header)
    blocks = raw.reshape(len(ids), n_blocks, block)
    scales[group, :, :, lane] = blocks[:, :, :header].reshape(len(ids), n_blocks, -1, 2)
    values = blocks[:, :, header:]
    if weight.format == "q8_0":
        values = values ^ 0x80
    quants[group, :, :, lane] = values.reshape(len(ids), n_blocks, -1, 4)
