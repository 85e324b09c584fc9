"""Weights on the device, as Triton's kernels read them, and how they get there.

Row by row, columns adjacent, so that a tile of a matrix is a tile of memory:
    f32, f16, bf16     values, as in the file
    4-bit formats      codes uint8 (n_rows, 32 * pairs of blocks): byte j of pair p has column
                       64 p + j in its low nibble and column 64 p + 32 + j in its high one; the
                       second block of the last pair may be missing: its codes are zero
    other block ones   codes int8 (n_rows, n_cols): signed for q8_0, the values that a table has for
                       them (iq4_nl and after), else as blocks.Blocks has them
and for all block formats the numbers of the headers: halves (n_rows, n_headers, n_halves), float16
but for those of table_weights.HALVES, and small (n_rows, n_headers, n_small), int8 where scales
have signs, else uint8.  blocks.LAYOUTS says what they mean; nothing is rounded, so what a weight
means is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.table_weights import (
    HALVES,
    READERS,
    bits,
    device_halves,
    e8m0_halves,
)
from pyroclast_kernels.weights import BLOCK_FORMATS, formats
from pyroclast_kernels.weights.blocks import BLOCK, LAYOUTS
from pyroclast_kernels.weights.packing import LANES, PackedWeight

_VALUES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NIBBLES = tuple(format for format, layout in LAYOUTS.items() if layout.has_nibbles)
_SIGNED_SMALL = ("q3_k", "q6_k", "iq4_xs", "iq3_s", "t4_k")
# Rows are laid out in runs of about this many values: large enough that a run's kernels outlast
# their launches, small enough that its temporaries (some 10 bytes a value) do not count.
_RUN_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class DeviceWeight:
    """A weight matrix (n_rows, n_cols); see above which tensors a format has."""

    format: str
    n_rows: int
    n_cols: int
    values: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    halves: torch.Tensor | None = None
    small: torch.Tensor | None = None

    @classmethod
    def empty(cls, format: str, n_rows: int, n_cols: int) -> DeviceWeight:
        """A weight with memory that is not yet written.  KernelError if the format has no such
        rows, or the device has no room."""
        if n_rows < 1 or n_cols < 1:
            raise KernelError(f"a weight needs rows and columns, got {n_rows} x {n_cols}")
        n_bytes = n_rows * formats.row_bytes(n_cols, format)
        try:
            return cls(format, n_rows, n_cols, **_empty_tensors(format, n_rows, n_cols))
        except RuntimeError as error:  # torch's OutOfMemoryError is one
            raise KernelError(
                f"no room on the device for a weight of {n_rows} x {n_cols} in {format} "
                f"({n_bytes / 1e9:.1f} GB): {str(error).partition(chr(10))[0]}"
            ) from error

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Those that this format has."""
        return tuple(
            tensor
            for tensor in (self.values, self.codes, self.halves, self.small)
            if tensor is not None
        )

    @property
    def n_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)

    @property
    def takes_q8(self) -> bool:
        """Whether products with this weight take activations quantized to 8 bits."""
        return self.format in BLOCK_FORMATS


def _empty_tensors(format: str, n_rows: int, n_cols: int) -> dict[str, torch.Tensor]:
    def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=triton_device.device())

    if format in _VALUES:
        return {"values": empty(n_rows, n_cols, dtype=_VALUES[format])}
    layout = LAYOUTS[format]
    n_headers = n_cols // layout.columns
    packed = format in NIBBLES
    n_codes = -(-n_cols // (2 * BLOCK)) * BLOCK if packed else n_cols
    small = torch.int8 if format in _SIGNED_SMALL else torch.uint8
    return {
        "codes": empty(n_rows, n_codes, dtype=torch.uint8 if packed else torch.int8),
        "halves": empty(
            n_rows, n_headers, layout.n_halves, dtype=HALVES.get(format, torch.float16)
        ),
        "small": empty(n_rows, n_headers, layout.n_small, dtype=small),
    }


def pack_on_device(raw: torch.Tensor, format: str) -> DeviceWeight:
    """Raw rows uint8 (n_rows, row_bytes), as in a file, as a weight of their own: see pack_rows."""
    layout = formats.get_format(format)
    if raw.ndim != 2:
        raise KernelError(f"rows must be (n_rows, row_bytes), got {tuple(raw.shape)}")
    n_cols = raw.shape[1] // layout.block_bytes * layout.block_columns
    weight = DeviceWeight.empty(format, raw.shape[0], n_cols)
    pack_rows(raw, weight, 0)
    return weight


def pack_rows(raw: torch.Tensor, weight: DeviceWeight, row_offset: int) -> None:
    """Lays raw rows uint8 (n_rows, row_bytes), as in a file, into rows [row_offset, row_offset +
    n_rows) of the weight; other rows stay as they are.  raw may lie anywhere; from pinned memory
    its copy may still be under way on return, so the caller waits for the device before reusing
    it."""
    n_bytes = formats.row_bytes(weight.n_cols, weight.format)
    if raw.dtype != torch.uint8 or raw.ndim != 2 or raw.shape[1] != n_bytes:
        raise KernelError(
            f"rows of {weight.n_cols} columns in {weight.format} are uint8 (n_rows, {n_bytes}), "
            f"got {raw.dtype} {tuple(raw.shape)}"
        )
    if row_offset < 0 or row_offset + len(raw) > weight.n_rows:
        raise KernelError(
            f"rows {row_offset} to {row_offset + len(raw)} do not lie within a weight of "
            f"{weight.n_rows} rows"
        )
    if weight.values is not None:
        rows = weight.values.view(torch.uint8)[row_offset : row_offset + len(raw)]
        rows.copy_(raw, non_blocking=True)
        return
    step = max(1, _RUN_VALUES // weight.n_cols)
    for first in range(0, len(raw), step):
        run = raw[first : first + step].to(triton_device.device(), non_blocking=True)
        blocks = run.reshape(len(run), -1, formats.FORMATS[weight.format].block_bytes)
        codes, small = _READ[weight.format](_Fields(blocks, weight.format))
        _put(weight, row_offset + first, codes, _halves(blocks, weight.format), small)


_on_device: WeakKeyDictionary[PackedWeight, DeviceWeight] = WeakKeyDictionary()


def of_packed(packed: PackedWeight) -> DeviceWeight:
    """The same weight on the device.  Kept for as long as `packed` lives, whose rows must not
    change any more."""
    if packed not in _on_device:
        _on_device[packed] = _of_packed(packed)
    return _on_device[packed]


def _of_packed(packed: PackedWeight) -> DeviceWeight:
    weight = DeviceWeight.empty(packed.format, packed.n_rows, packed.n_cols)
    step = max(1, _RUN_VALUES // packed.n_cols)
    for first in range(0, packed.n_rows, step):
        rows = np.arange(first, min(first + step, packed.n_rows))
        group, lane = rows // LANES, rows % LANES
        if weight.values is not None:
            raw = np.ascontiguousarray(packed.value_cells()[group, :, lane])
            pack_rows(torch.from_numpy(raw.reshape(len(rows), -1)), weight, first)
            continue
        blocks = packed._blocks(group, lane)  # noqa: SLF001
        parts = (_stored(blocks.codes, packed.format), blocks.halves, blocks.small)
        copies = (torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
        codes, halves, small = (copy.to(triton_device.device()) for copy in copies)
        _put(weight, first, codes, halves, small)
    return weight


def _stored(codes: Any, format: str) -> Any:
    """Packed codes as bytes of the device's: q8_0's with their signs, values of a table."""
    if LAYOUTS[format].table:
        return np.array(LAYOUTS[format].table, np.int8)[codes].view(np.uint8)
    return codes ^ np.uint8(128 if format == "q8_0" else 0)


def _put(weight: DeviceWeight, first: int, codes: Any, halves: Any, small: Any) -> None:
    """Codes uint8 (n, n_headers, columns), one in a byte, or packed already, and the numbers of the
    headers, into rows [first, first + n)."""
    assert weight.codes is not None and weight.halves is not None and weight.small is not None
    rows = slice(first, first + len(codes))
    codes = codes.reshape(len(codes), -1)
    if weight.format in NIBBLES and codes.shape[1] != weight.codes.shape[1]:
        codes = _nibbles(codes)
    weight.codes[rows].view(torch.uint8).copy_(codes)
    weight.halves[rows].copy_(device_halves(halves, weight.format))
    weight.small[rows].view(torch.uint8).copy_(small)


def _nibbles(codes: torch.Tensor) -> torch.Tensor:
    """uint8 (n, n_cols) -> (n, 32 * pairs): a block in the low nibbles, the next in the high."""
    missing = codes.shape[1] % (2 * BLOCK)
    pairs = torch.nn.functional.pad(codes, (0, missing)).reshape(len(codes), -1, 2, BLOCK)
    packed: torch.Tensor = pairs[:, :, 0] | pairs[:, :, 1] << 4
    return packed.reshape(len(codes), -1)


# ---- a file's blocks: what read_blocks of blocks.py does, on tensors -----------------------------


class _Fields:
    """The named fields of a format's blocks, uint8 (n, n_headers, block_bytes): views."""

    def __init__(self, blocks: torch.Tensor, format: str) -> None:
        self._blocks, self._dtype = blocks, formats.FORMATS[format].dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        assert self._dtype.fields is not None
        dtype, offset = self._dtype.fields[name][:2]
        return self._blocks[..., offset : offset + dtype.itemsize]


def _halves(blocks: torch.Tensor, format: str) -> torch.Tensor:
    """float16 (n, n_headers, n_halves)."""
    named, fields = formats.FORMATS[format].dtype.names or (), _Fields(blocks, format)
    if format == "mxfp4":
        return e8m0_halves(fields["e"])
    parts = [fields[name] for name in ("d", "dmin", "m") if name in named]
    return torch.cat(parts, dim=-1).view(torch.float16)


_Read = Callable[[_Fields], tuple[Any, Any]]


def _no_small(fields: _Fields) -> torch.Tensor:
    return fields["d"][..., :0]


def _read_nibbles(fields: _Fields) -> tuple[Any, Any]:
    return bits(fields["qs"], 4, 16), _no_small(fields)


def _read_five_bits(fields: _Fields) -> tuple[Any, Any]:
    codes = bits(fields["qs"], 4, 16) | bits(fields["qh"], 1, 1) << 4
    return codes, _no_small(fields)


def _read_q3_k(fields: _Fields) -> tuple[Any, Any]:
    codes = bits(fields["qs"], 2, 32) | bits(fields["hmask"], 1, 32) << 2
    packed = fields["scales"]
    scales = bits(packed[..., :8], 4, 8) | bits(packed[..., 8:], 2, 4) << 4
    return codes, scales - 32  # wraps: a signed byte


def _scales_and_minimums(fields: _Fields) -> torch.Tensor:
    """Eight 6-bit scales, then eight minimums: see blocks.py."""
    whole, rest = fields["scales"][..., :8], fields["scales"][..., 8:]
    first = whole & 63
    last = torch.cat([rest & 15, rest >> 4], -1) | whole >> 2 & 48
    return torch.cat([first[..., :4], last[..., :4], first[..., 4:], last[..., 4:]], -1)


def _read_q5_k(fields: _Fields) -> tuple[Any, Any]:
    codes = bits(fields["qs"], 4, 32) | bits(fields["qh"], 1, 32) << 4
    return codes, _scales_and_minimums(fields)


def _read_q6_k(fields: _Fields) -> tuple[Any, Any]:
    return bits(fields["ql"], 4, 64) | bits(fields["qh"], 2, 32) << 4, fields["scales"]


# q8_0's signed bytes, and q4_k's nibbles (64 columns in 32 bytes), lie in the file as they do here.
_READ: dict[str, _Read] = {
    "q8_0": lambda fields: (fields["qs"], _no_small(fields)),
    "q4_0": _read_nibbles,
    "q4_1": _read_nibbles,
    "q5_0": _read_five_bits,
    "q5_1": _read_five_bits,
    "q2_k": lambda fields: (bits(fields["qs"], 2, 32), fields["scales"]),
    "q3_k": _read_q3_k,
    "q4_k": lambda fields: (fields["qs"], _scales_and_minimums(fields)),
    "q5_k": _read_q5_k,
    "q6_k": _read_q6_k,
    **READERS,
}
