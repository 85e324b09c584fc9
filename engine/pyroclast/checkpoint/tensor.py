"""A weight as a checkpoint offers it: raw rows in a block format, made or read when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pyroclast.files.mapped_file import MappedFile
from pyroclast_kernels.weights import PACKED_FORMATS, formats
from pyroclast_kernels.weights.recode import RECODED, recode

Bytes = npt.NDArray[np.uint8]


class RowSource(Protocol):
    """Where a tensor's rows come from; rows() is uint8 (n_rows, row_bytes)."""

    def rows(self) -> Bytes:
        """Every row's bytes, in order."""
        ...

    def release(self) -> None:
        """Let go of the memory behind rows() that can be had again."""
        ...


@dataclass(frozen=True)
class Tensor:
    """One weight: canonical name, the file's own name, block format, and shape.

    shape is (n_rows, n_cols) = (out_features, in_features), or (n,), which counts as one row.
    stored_format is the file's own where loading converts it.  Nothing is cached: each call of
    rows() or float32() reads, or makes, the data again.
    """

    name: str
    source_name: str
    format: str
    shape: tuple[int, ...]
    source: RowSource = field(repr=False, compare=False)
    stored_format: str | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows in this tensor's format."""
        return math.prod(self.shape[:-1]) * formats.row_bytes(self.shape[-1], self.format)

    def rows(self) -> Bytes:
        """Raw bytes as on disk, uint8 (n_rows, row_bytes): a read-only view into the file
        wherever no conversion or change of row order is needed.
        """
        return self.source.rows()

    def float32(self) -> npt.NDArray[np.float32]:
        """The dequantized values, float32 of `shape`."""
        return formats.dequantize(self.rows(), self.format).reshape(self.shape)

    def release(self) -> None:
        """Take the file's pages of this tensor out of resident memory (after packing)."""
        self.source.release()


@dataclass(frozen=True)
class MappedRows:
    """n_rows rows of row_bytes bytes that lie one after the other in a mapped file.

    order, if any, rearranges them: row i of the result is row order[i] in the file.
    """

    file: MappedFile
    offset: int
    n_rows: int
    row_bytes: int
    order: npt.NDArray[np.intp] | None = None

    def rows(self) -> Bytes:
        """Every row's bytes; a copy only if `order` asks for one."""
        view = self.file.view(self.offset, self.n_rows * self.row_bytes)
        rows = view.reshape(self.n_rows, self.row_bytes)
        return rows if self.order is None else rows[self.order]

    def release(self) -> None:
        """Drop the resident pages; the next rows() reads them again."""
        self.file.release(self.offset, self.n_rows * self.row_bytes)


@dataclass(frozen=True)
class TransposedRows:
    """Rows [first_row, first_row + n_rows) of the transpose of a mapped matrix of that shape, whose
    values have value_bytes bytes each.  order rearranges them as in MappedRows."""

    file: MappedFile
    offset: int
    shape: tuple[int, ...]
    value_bytes: int
    first_row: int
    n_rows: int
    order: npt.NDArray[np.intp] | None = None

    def rows(self) -> Bytes:
        """The rows' bytes, gathered from the file's columns at each call."""
        n_bytes = math.prod(self.shape) * self.value_bytes
        values = self.file.view(self.offset, n_bytes).view(f"<u{self.value_bytes}")
        columns = values.reshape(self.shape)[:, self.first_row : self.first_row + self.n_rows]
        rows = np.ascontiguousarray(columns.T).view(np.uint8)
        return rows if self.order is None else rows[self.order]

    def release(self) -> None:
        """Drop the resident pages of the whole matrix; the next rows() reads them again."""
        self.file.release(self.offset, math.prod(self.shape) * self.value_bytes)


@dataclass(frozen=True)
class JoinedRows:
    """Another source's rows joined into one: how a (n,) tensor in a row order is kept."""

    inner: RowSource

    def rows(self) -> Bytes:
        """All bytes of the inner source as one row."""
        return self.inner.rows().reshape(1, -1)

    def release(self) -> None:
        """Release the inner source."""
        self.inner.release()


@dataclass(frozen=True)
class QuantizedRows:
    """Another source's rows times a factor, converted from one format to another at each call."""

    inner: RowSource
    from_format: str
    to_format: str
    factor: float = 1.0

    def rows(self) -> Bytes:
        """The converted rows, made again at each call."""
        raw = self.inner.rows()
        n_rows, n_bytes = raw.shape
        layout = formats.FORMATS[self.from_format]
        n_cols = n_bytes // layout.block_bytes * layout.block_columns
        out = np.empty((n_rows, formats.row_bytes(n_cols, self.to_format)), dtype=np.uint8)
        # In slices, so that a float32 copy of a whole vocabulary matrix never exists.
        step = max(1, (1 << 20) // n_cols)
        for start in range(0, n_rows, step):
            values = formats.dequantize(raw[start : start + step], self.from_format)
            if self.factor != 1:
                values = values * np.float32(self.factor)
            out[start : start + step] = formats.quantize(values, self.to_format)
        return out

    def release(self) -> None:
        """Release the inner source."""
        self.inner.release()


@dataclass(frozen=True)
class RecodedRows:
    """Another source's rows in the format that stands in for theirs, made again at each call."""

    inner: RowSource
    from_format: str

    def rows(self) -> Bytes:
        """The rows as `recode` lays them out."""
        return recode(self.inner.rows(), self.from_format)

    def release(self) -> None:
        """Release the inner source."""
        self.inner.release()


def computable(tensor: Tensor) -> Tensor:
    """The same weight in a format that kernels compute; vectors (norms, biases) keep theirs."""
    if tensor.format in PACKED_FORMATS or len(tensor.shape) == 1:
        return tensor
    return replace(
        tensor,
        format=RECODED[tensor.format].target,
        source=RecodedRows(tensor.source, tensor.format),
        stored_format=tensor.format,
    )


def conversion_line(tensors: Iterable[Tensor]) -> str:
    """Which tensors loading converts to what, in one line; "" if it converts none."""
    groups: dict[tuple[str, str], list[str]] = {}
    for tensor in tensors:
        if tensor.stored_format is not None:
            groups.setdefault((tensor.stored_format, tensor.format), []).append(tensor.source_name)
    parts = [
        f"{len(names)} in {stored.upper()} to {format} ({', '.join(names[:2])}"
        + (", ...)" if len(names) > 2 else ")")
        for (stored, format), names in groups.items()
    ]
    return f"tensors converted at load: {'; '.join(parts)}" if parts else ""


def converted(tensor: Tensor, to_format: str) -> Tensor:
    """The same weight in another format; vectors (norms, biases) keep theirs."""
    if tensor.format == to_format or len(tensor.shape) == 1:
        return tensor
    source = QuantizedRows(tensor.source, tensor.format, to_format)
    return Tensor(tensor.name, tensor.source_name, to_format, tensor.shape, source)
