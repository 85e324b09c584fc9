"""The weights of a packed file: mapped, found by name, and checked against the config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from pyroclast.checkpoint.tensor import Bytes, FileRows, Scratch, Tensor
from pyroclast.errors import ModelFileError
from pyroclast.families.config import ModelConfig
from pyroclast.families.gguf_rope import ROPE_TENSORS
from pyroclast.families.tensors import Shape, is_matrix, tensor_shapes
from pyroclast.files.gguf_metadata import Metadata
from pyroclast.files.packed_file import Entry, PackedFile, entry_name
from pyroclast_kernels.experts import stacked_rows
from pyroclast_kernels.mapped_file import MappedFile, map_file
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.packing import LANES, PackedWeight, group_bytes

# What of the GGUF file's tensors the config needs, beside its keys.
NAMES_KEY = "pyroclast.tensors"
VECTOR_KEY = "pyroclast.vector."


def source_facts(metadata: Metadata) -> dict[str, Any]:
    """The arguments of `hyperparameters_from_gguf` that no key of a GGUF file has: the names of its
    tensors, and the values of those of the rope."""
    names = metadata.get(NAMES_KEY)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelFileError(f"{NAMES_KEY!r} must be a list of names, got {str(names)[:99]}")
    vectors: dict[str, tuple[float, ...]] = {}
    for name in ROPE_TENSORS:
        values = metadata.get(VECTOR_KEY + name)
        if values is None:
            continue
        if not isinstance(values, list) or not all(isinstance(each, float) for each in values):
            raise ModelFileError(f"{VECTOR_KEY + name!r} must be a list of float numbers")
        vectors[name] = tuple(values)
    return {"tensors": frozenset(names), "vectors": vectors}


class PackedWeights:
    """The weights of an open packed file.

    They are mapped when the first is asked for; without native code, which alone can guard a
    mapping, each is read."""

    def __init__(self, file: PackedFile) -> None:
        self.file = file
        self._mapped: MappedFile | None = None
        self._is_mapped = False

    def tensors(self, config: ModelConfig) -> dict[str, Tensor]:
        """The weights by name; ModelFileError unless they are those of the config.  Not kept: they
        know this object, which would keep the file mapped until the garbage is collected."""
        shapes = tensor_shapes(config)
        found: dict[str, Tensor] = {}
        for entry in self.file.entries.values():
            # A matrix that an entry has twice is the same rows.
            for tensor in {t.name: t for t in self._tensors(entry, shapes)}.values():
                if tensor.name in found:
                    raise ModelFileError(f"{tensor.name!r} is in two entries")
                found[tensor.name] = tensor
        for name in shapes:
            if name not in found:
                raise ModelFileError(f"weight {name!r} is missing")
        return found

    def _tensors(self, entry: Entry, shapes: Mapping[str, Shape]) -> list[Tensor]:
        """The weights of an entry, which must have their shapes."""
        names = entry.name.split("+")
        for name in names:
            if name not in shapes:
                raise ModelFileError(f"entry {entry.name!r}: the config calls for no {name!r}")
        expected = [shapes[name] for name in names]
        if entry.shape != _entry_shape(names, expected, entry.layout):
            raise ModelFileError(
                f"entry {entry.name!r} has shape {entry.shape} in the layout {entry.layout!r}; the "
                f"config calls for {expected}"
            )
        if entry.layout == "rows":
            return [self._vector(entry, expected[0])]
        firsts = accumulate((shape[-2] for shape in expected), initial=0)
        if len(expected[0]) == 3:
            stride = stacked_rows(expected[0][1])
            firsts = accumulate((stride for _ in expected), initial=0)
        return [
            Tensor(
                name,
                name,
                entry.format,
                shape,
                PackedRows(self, entry, first, shape[-2], len(names)),
                is_packed=True,
            )
            for name, shape, first in zip(names, expected, firsts, strict=False)
        ]

    def _vector(self, entry: Entry, shape: Shape) -> Tensor:
        """A vector, or one for each expert, which must not share blocks."""
        if shape[-1] % formats.FORMATS[entry.format].block_columns:
            raise ModelFileError(
                f"entry {entry.name!r} is in {entry.format}, whose blocks do not fit rows of "
                f"{shape[-1]} values"
            )
        n_rows, n_bytes = math.prod(shape[:-1]), formats.row_bytes(shape[-1], entry.format)
        rows = FileRows(self.file.file, entry.name, entry.offset, n_rows, n_bytes)
        return Tensor(entry.name, entry.name, entry.format, shape, rows)

    def weight(self, names: Sequence[str]) -> PackedWeight:
        """The product of these weights, in the file's own memory."""
        entry = self.file.entries.get(entry_name(names))
        if entry is None or entry.layout != "packed":
            raise ModelFileError(
                f"{self.file.path}: has no product of {', '.join(names)}: another version of "
                "Pyroclast packed it; convert the model again"
            )
        return self.packed(entry)

    def packed(self, entry: Entry) -> PackedWeight:
        """That entry's matrix."""
        mapped, (n_rows, n_cols) = self.mapped(), entry.shape
        if mapped is None:
            weight = PackedWeight.empty(entry.format, n_rows, n_cols)
            self.file.file.read_into(weight.data, entry.offset, repr(entry.name))
            return weight
        data = mapped.data[entry.offset : entry.offset + entry.n_bytes]
        groups = data.reshape(-1, group_bytes(n_cols, entry.format))
        return PackedWeight(entry.format, n_rows, n_cols, groups)

    def values(self, entry: Entry, first: int, last: int) -> Any:
        """Rows [first, last) of that entry's matrix in float32; no others are read, but for those
        of the same groups."""
        n_rows, n_cols = entry.shape
        begin, n_bytes = first // LANES, group_bytes(n_cols, entry.format)
        skipped, n_groups = begin * LANES, -(-last // LANES) - begin
        groups = replace(
            entry,
            shape=(min(n_rows - skipped, n_groups * LANES), n_cols),
            offset=entry.offset + begin * n_bytes,
            n_bytes=n_groups * n_bytes,
        )
        return self.packed(groups).dequantize(slice(first - skipped, last - skipped))

    def mapped(self) -> MappedFile | None:
        """The mapped file; None where it is read instead."""
        if not self._is_mapped:
            file = self.file.file
            self._mapped = map_file(file.fileno(), file.size)
            self._is_mapped = True
            file.read(0, 1, "the first byte")  # raises if the file changed since it was opened
        return self._mapped

    def read_ahead(self) -> None:
        """Begins to bring the mapped file in, in another thread."""
        if (mapped := self.mapped()) is not None:
            mapped.read_ahead()

    def check_whole(self) -> None:
        """ModelFileError if the mapped file is no longer what was opened."""
        if self._mapped is not None and not self._mapped.is_whole:
            raise ModelFileError(
                f"{self.file.path}: the file changed while it was in use; load it again when no "
                "other program writes it, and replace such files by renaming another over them"
            )


def _entry_shape(names: Sequence[str], shapes: Sequence[Shape], layout: str) -> Shape | None:
    """The shape of an entry of these weights; None if they cannot be in one of that layout."""
    first = shapes[0]
    if (layout == "packed") != is_matrix(names[0]):
        return None
    if layout == "rows":
        return (math.prod(first),) if len(names) == 1 else None
    if len(first) == 3:  # the same matrices of every expert, each filled up
        n_rows = first[0] * len(names) * stacked_rows(first[1])
        return (n_rows, first[2]) if all(shape == first for shape in shapes) else None
    if any(len(shape) != 2 or shape[1] != first[1] for shape in shapes):
        return None
    return sum(shape[0] for shape in shapes), first[1]


@dataclass(frozen=True)
class PackedRows:
    """The values of a weight that lies among the rows of an entry, as float32 rows: the bytes that
    the weight had in its format are gone.

    The weight has rows_each rows from first_row on.  That of experts has as many for each, and the
    entry holds n_stacks such weights: a matrix of each, filled up, for one expert after the other.
    """

    weights: PackedWeights
    entry: Entry
    first_row: int
    rows_each: int
    n_stacks: int
    at_once = False

    def rows(self, first: int, last: int, scratch: Scratch) -> Bytes:
        """Rows [first, last) of float32 values, as bytes."""
        del scratch
        each, found = self.rows_each, []
        for i in range(first // each, -(-last // each)):
            begin, end = max(first - i * each, 0), min(last - i * each, each)
            base = self.first_row + i * self.n_stacks * stacked_rows(each)
            found.append(self.weights.values(self.entry, base + begin, base + end))
        self.weights.check_whole()
        values = found[0] if len(found) == 1 else np.concatenate(found)
        return np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
