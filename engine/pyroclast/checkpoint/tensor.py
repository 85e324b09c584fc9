"""A weight as a checkpoint offers it: raw rows in a block format, made or read when asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pyroclast.errors import ModelFileError
from pyroclast.families.tensors import is_matrix
from pyroclast.files.model_file import ModelFile
from pyroclast_kernels.weights import PACKED_FORMATS, formats
from pyroclast_kernels.weights.recode import RECODED, recode

Bytes = npt.NDArray[np.uint8]

# What is read at once: packing a run costs some 100 us beside its bytes, as its threads meet twice.
_RUN_BYTES = 4 << 20
_COLUMN_BYTES = 1 << 20  # of a matrix that is transposed: a block that stays in the cache
_RUN_ROWS = 16  # a run is a multiple of the rows that packed weights interleave


class Scratch:
    """Memory for one read after the other: fresh memory costs as much as the read itself."""

    def __init__(self) -> None:
        self._memory: Bytes = np.empty(0, np.uint8)

    def take(self, n_bytes: int) -> Bytes:
        """n_bytes, in use until the next call."""
        if n_bytes > len(self._memory):
            self._memory = np.empty(n_bytes, np.uint8)
        return self._memory[:n_bytes]


class RowSource(Protocol):
    """Where a tensor's rows come from."""

    @property
    def at_once(self) -> bool:
        """Whether a part of the rows costs as much as all of them."""
        ...

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """Rows [first, last), uint8 (last - first, row_bytes); they may lie in scratch."""
        ...


@dataclass(frozen=True)
class Tensor:
    """One weight: canonical name, the file's own name, block format, and shape.

    shape is (n_rows, n_cols) = (out_features, in_features), or (n,), which counts as one row;
    of experts there is a dimension before these.
    stored_format is the file's own where loading converts it.  is_packed: source gives float32
    values, and the format's own bytes cannot be had.  Nothing is cached: each call of rows() or
    float32() reads, or makes, the data again.
    """

    name: str
    source_name: str
    format: str
    shape: tuple[int, ...]
    source: RowSource = field(repr=False, compare=False)
    stored_format: str | None = None
    is_packed: bool = False

    @property
    def n_rows(self) -> int:
        """How many rows rows() has."""
        return math.prod(self.shape[:-1])

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows in this tensor's format."""
        return self.n_rows * formats.row_bytes(self.shape[-1], self.format)

    def rows(
        self, first: int = 0, last: int | None = None, scratch: Scratch | None = None
    ) -> Bytes:
        """Raw bytes as on disk of rows [first, last), uint8 (last - first, row_bytes).  With
        scratch they last until it is used again."""
        if self.is_packed:
            raise ModelFileError(
                f"{self.source_name!r} is packed for the CPU's kernels; use the file that the "
                "packed one was made from"
            )
        last = self.n_rows if last is None else last
        return self.source.rows(first, last, scratch or Scratch())

    def runs(self) -> list[tuple[int, int]]:
        """All rows, as ranges [first, last) that are read at once: about 4 MiB each."""
        step = max(1, _RUN_BYTES * self.n_rows // self.n_bytes // _RUN_ROWS) * _RUN_ROWS
        if self.source.at_once:
            step = self.n_rows
        return [(i, min(i + step, self.n_rows)) for i in range(0, self.n_rows, step)]

    def float32(self) -> npt.NDArray[np.float32]:
        """The dequantized values, float32 of `shape`."""
        rows = self.source.rows(0, self.n_rows, Scratch())
        return formats.dequantize(rows, self.source_format).reshape(self.shape)

    @property
    def source_format(self) -> str:
        """The format of what source gives."""
        return "f32" if self.is_packed else self.format


@dataclass(frozen=True)
class FileRows:
    """n_rows rows of row_bytes bytes that lie one after the other in a file, where a tensor of
    that name is.

    order, if any, rearranges them: row i of the result is row order[i] in the file.
    """

    file: ModelFile
    tensor: str
    offset: int
    n_rows: int
    row_bytes: int
    order: npt.NDArray[np.intp] | None = None
    at_once = False

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The rows' bytes; with an order, of all file rows from the first to the last wanted."""
        if self.order is None:
            return self._read(first, last, scratch)
        wanted = self.order[first:last]
        low, high = int(wanted.min()), int(wanted.max()) + 1
        return self._read(low, high, scratch)[wanted - low]

    def _read(self, first: int, last: int, scratch: Scratch) -> Bytes:
        out = scratch.take((last - first) * self.row_bytes)
        offset = self.offset + first * self.row_bytes
        self.file.read_into(out, offset, f"tensor {self.tensor!r}")
        return out.reshape(-1, self.row_bytes)


@dataclass(frozen=True)
class TransposedRows:
    """Rows from first_row on of the transpose of a matrix of that shape in a file, whose values
    have value_bytes bytes each.  order rearranges them as in FileRows."""

    file: ModelFile
    tensor: str
    offset: int
    shape: tuple[int, ...]
    value_bytes: int
    first_row: int
    order: npt.NDArray[np.intp] | None = None
    at_once = True

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The rows' bytes, gathered from the file's columns at each call.  All columns are read,
        and those from the first to the last wanted are transposed."""
        n_file_rows, n_file_cols = self.shape
        dtype = f"<u{self.value_bytes}"
        wanted = None if self.order is None else self.order[first:last]
        low, high = (first, last) if wanted is None else (int(wanted.min()), int(wanted.max()) + 1)
        columns = slice(self.first_row + low, self.first_row + high)
        out = np.empty((high - low, n_file_rows), dtype)
        file_rows = FileRows(
            self.file, self.tensor, self.offset, n_file_rows, n_file_cols * self.value_bytes
        )
        step = max(1, _COLUMN_BYTES // file_rows.row_bytes)
        for i in range(0, n_file_rows, step):
            values = file_rows.rows(i, min(i + step, n_file_rows), scratch).view(dtype)
            out[:, i : i + step] = values[:, columns].T
        rows = out.view(np.uint8)
        return rows if wanted is None else rows[wanted - low]


@dataclass(frozen=True)
class JoinedRows:
    """All rows of a source joined into one: how a (n,) tensor in a row order is kept."""

    inner: FileRows
    at_once = True

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The one row, if first and last ask for it."""
        return self.inner.rows(0, self.inner.n_rows, scratch).reshape(1, -1)[first:last]


@dataclass(frozen=True)
class QuantizedRows:
    """Another source's rows times a factor, converted from one format to another at each call."""

    inner: RowSource
    from_format: str
    to_format: str
    factor: float = 1.0

    @property
    def at_once(self) -> bool:
        """As the inner source."""
        return self.inner.at_once

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The converted rows, made again at each call."""
        raw = self.inner.rows(first, last, scratch)
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


@dataclass(frozen=True)
class RecodedRows:
    """Another source's rows in the format that stands in for theirs, made again at each call."""

    inner: RowSource
    from_format: str

    @property
    def at_once(self) -> bool:
        """As the inner source."""
        return self.inner.at_once

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """The rows as `recode` lays them out."""
        return recode(self.inner.rows(first, last, scratch), self.from_format)


def computable(tensor: Tensor) -> Tensor:
    """The same weight in a format that kernels compute; vectors (norms, biases) keep theirs."""
    if tensor.format in PACKED_FORMATS or not is_matrix(tensor.name):
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
    if tensor.source_format == to_format or not is_matrix(tensor.name):
        return replace(tensor, format=to_format, is_packed=False) if tensor.is_packed else tensor
    source = QuantizedRows(tensor.source, tensor.source_format, to_format)
    return Tensor(tensor.name, tensor.source_name, to_format, tensor.shape, source)


def all_converted(tensors: dict[str, Tensor], to_format: str) -> dict[str, Tensor]:
    """The same weights, the matrices in another format.  ModelFileError for a matrix whose rows do
    not divide into its blocks."""
    block_columns = formats.FORMATS[to_format].block_columns
    # Learned positions and routers keep their format: they are few, and llama.cpp keeps them too.
    kept = ("position_embd", "w_router")
    changed = {
        name: tensor
        for name, tensor in tensors.items()
        if is_matrix(name) and name.rpartition(".")[2] not in kept
    }
    for tensor in changed.values():
        if tensor.shape[-1] % block_columns:
            raise ModelFileError(
                f"tensor {tensor.source_name!r} has {tensor.shape[-1]} columns; "
                f"{to_format} needs a multiple of {block_columns} (f16 and bf16 take any number)"
            )
    return tensors | {name: converted(tensor, to_format) for name, tensor in changed.items()}
