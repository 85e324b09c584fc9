"""The packed weight layout of packed.h, in NumPy.

Rows are taken 16 at a time, one per SIMD lane; a group of 16 rows is one run of bytes, a multiple
of 64 long, the missing rows of the last group zero:
    block formats   per chunk its headers, then the codes of its blocks of 32 columns.  A header is
                    for 32 columns (K formats: 256): the float16 numbers of 16 rows side by side,
                    then small integers likewise; a chunk has one, or two where one would end within
                    a cache line.  Codes (codes.h; q8_0 with +128): 4 bytes of a row at a time, 16
                    rows side by side
    f32, f16, bf16  per column the 16 values
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.huge_pages import ALIGN, HugePages
from pyroclast_kernels.weights import BLOCK_FORMATS, PACKED_FORMATS, formats
from pyroclast_kernels.weights.blocks import (
    BLOCK,
    LAYOUTS,
    Blocks,
    Layout,
    pack_codes,
    quant_bytes,
    read_blocks,
    unpack_codes,
    values_of,
)

Array = NDArray[Any]

LANES = 16
# What packed files state: count it up when any byte of a packed weight changes its meaning.
LAYOUT_VERSION = 1
_VALUE_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
# Rows are packed in runs of about this many values, so that temporaries stay small.
_RUN_VALUES = 1 << 22


def group_bytes(n_cols: int, format: str) -> int:
    """Bytes of a group of 16 packed rows."""
    if format not in PACKED_FORMATS:
        raise KernelError(
            f"no packed layout for format {format!r}; there are {', '.join(PACKED_FORMATS)}"
        )
    if format in _VALUE_BYTES:
        return _round_up(n_cols * LANES * _VALUE_BYTES[format], ALIGN)
    layout = LAYOUTS[format]
    if n_cols % layout.columns:
        raise KernelError(f"{format} needs a multiple of {layout.columns} columns, got {n_cols}")
    n_headers, step = n_cols // layout.columns, _chunk_headers(layout)
    header, codes = LANES * layout.header_bytes, LANES * layout.columns * layout.bits // 8
    return -(-n_headers // step) * step * header + n_headers * codes


def packed_bytes(format: str, n_rows: int, n_cols: int) -> int:
    """Bytes of a whole packed weight."""
    return -(-n_rows // LANES) * group_bytes(n_cols, format)


def _chunk_headers(layout: Layout) -> int:
    return 1 if LANES * layout.header_bytes % ALIGN == 0 else 2


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
    def empty(
        cls, format: str, n_rows: int, n_cols: int, pages: HugePages | None = None
    ) -> PackedWeight:
        """Zeroed, among others in `pages`; memory is touched only when rows are packed."""
        if n_rows < 1 or n_cols < 1:
            raise KernelError(f"a weight needs rows and columns, got {n_rows} x {n_cols}")
        shape = -(-n_rows // LANES), group_bytes(n_cols, format)
        return cls(format, n_rows, n_cols, (pages or HugePages()).zeros(shape))

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

    def _parts(self) -> Iterator[tuple[slice, Array, Array, Array]]:
        """The whole chunks, then what is left: which headers, and of these uint8 views,
        halves (n_groups, chunks, headers of a chunk, n_halves, 16, 2), small (n_groups, chunks,
        headers, n_small, 16) and codes (n_groups, chunks, headers, blocks, vectors, 16, 4)."""
        layout, n_groups = LAYOUTS[self.format], len(self.data)
        step, header = _chunk_headers(layout), LANES * layout.header_bytes
        split = LANES * 2 * layout.n_halves
        code_shape = (layout.columns // BLOCK, quant_bytes(layout.bits) // 4, LANES, 4)
        n_chunks, rest = divmod(self.n_cols // layout.columns, step)
        start = 0
        for first, n, headers in ((0, n_chunks, step), (n_chunks * step, 1, rest)):
            if n * headers == 0:
                continue
            end = start + n * (step * header + headers * math.prod(code_shape))
            chunks = self.data[:, start:end].reshape(n_groups, n, -1)
            numbers = chunks[..., : headers * header].reshape(n_groups, n, headers, header)
            yield (
                slice(first, first + n * headers),
                numbers[..., :split].reshape(n_groups, n, headers, layout.n_halves, LANES, 2),
                numbers[..., split:].reshape(n_groups, n, headers, layout.n_small, LANES),
                chunks[..., step * header :].reshape(n_groups, n, headers, *code_shape),
            )
            start = end

    def _blocks(self, group: Array, lane: Array) -> Blocks:
        """The rows in these groups and lanes, as Blocks."""
        layout = LAYOUTS[self.format]
        n, n_headers = len(group), self.n_cols // layout.columns
        out = Blocks(
            np.empty((n, n_headers, layout.columns), np.uint8),
            np.empty((n, n_headers, layout.n_halves), "<f2"),
            np.empty((n, n_headers, layout.n_small), np.uint8),
        )
        for which, halves, small, codes in self._parts():
            shape = n, which.stop - which.start, -1
            unpacked = unpack_codes(codes[group, ..., lane, :], layout.bits)
            out.codes[:, which] = unpacked.reshape(shape)
            numbers = np.ascontiguousarray(halves[group, ..., lane, :]).view("<f2")
            out.halves[:, which] = numbers.reshape(shape)
            if layout.n_small:
                out.small[:, which] = small[group, ..., lane].reshape(shape)
        return out

    def put_blocks(self, blocks: Blocks, group: Array, lane: Array) -> None:
        """Puts rows into these groups and lanes."""
        n, bits = len(group), LAYOUTS[self.format].bits
        numbers = blocks.halves.astype("<f2")[..., None].view(np.uint8)
        for which, halves, small, codes in self._parts():
            part = blocks.codes[:, which].reshape(n, *codes.shape[1:4], BLOCK)
            codes[group, ..., lane, :] = pack_codes(part, bits)
            halves[group, ..., lane, :] = numbers[:, which].reshape(n, *halves.shape[1:4], 2)
            small[group, ..., lane] = blocks.small[:, which].reshape(n, *small.shape[1:4])


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
