"""Where a weight lies in a file: a tensor of its own, or rows of one that holds several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.tensor import FileRows, JoinedRows, RowSource, Tensor, TransposedRows
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.family import Family
from pyroclast.families.tensors import Shape, name_in_file, template_of
from pyroclast.files.model_file import ModelFile
from pyroclast_kernels.weights import formats


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as either file format describes it; format is None if it cannot be a weight."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    format: str | None
    file: ModelFile
    offset: int


@dataclass(frozen=True)
class Naming:
    """How files of one format name and store a family's weights; the fields are Family's."""

    names: Mapping[str, str]
    paired: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()

    @classmethod
    def of_gguf(cls, family: Family) -> Naming:
        """Of the family's GGUF files."""
        return cls(family.gguf_tensors, family.gguf_paired, family.gguf_fused)

    @classmethod
    def of_folder(cls, family: Family) -> Naming:
        """Of the family's Hugging Face folders."""
        return cls(family.hf_tensors, fused=family.hf_fused, transposed=family.hf_transposed)


@dataclass(frozen=True)
class Part:
    """Rows [first_row, first_row + shape[0]) of the tensor that a file calls `key`, which has
    n_rows of them; values, of a vector."""

    key: str
    shape: Shape
    first_row: int
    n_rows: int


def find_part(
    naming: Naming, stored: Mapping[str, StoredTensor], shapes: Mapping[str, Shape], name: str
) -> Part:
    """Where the weight of that canonical name lies; ModelFileError if it is nowhere.  shapes are
    those of all weights of the model."""
    shape = shapes[name]
    template, layer = template_of(name)
    own = name_in_file(naming.names, name) if template in naming.names else None
    if own is not None and own in stored:
        return Part(own, shape, 0, shape[0])
    prefix, _, weight = name.rpartition(".")
    for fused, weights in naming.fused.items():
        key = fused.format(i=layer)
        if layer is None or weight not in weights:
            continue
        sizes = [shapes.get(f"{prefix}.{each}", (0,))[0] for each in weights]
        own = own or key
        if key in stored:
            return Part(key, shape, sum(sizes[: weights.index(weight)]), sum(sizes))
    raise ModelFileError(f"tensor {own!r} is missing")


def part_tensor(
    name: str,
    part: Part,
    stored: StoredTensor,
    *,
    order: npt.NDArray[np.intp] | None,
    is_transposed: bool,
) -> Tensor:
    """The weight `name`, its shape and format checked.  order rearranges its rows; is_transposed:
    the file has columns where the weight has rows."""
    what = f"tensor {stored.name!r}"
    expected = (part.n_rows, *part.shape[1:])
    is_transposed = is_transposed and len(expected) == 2
    if is_transposed:
        expected = expected[::-1]
    if stored.shape != expected:
        raise ModelFileError(f"{what} has shape {stored.shape}; the config calls for {expected}")
    if stored.format is None:
        raise UnsupportedModelError(
            f"{what} has type {stored.type_name}, which cannot be a weight; supported: "
            "F32, F16, BF16"
        )
    # A vector that is cut or rearranged value by value must not lie in blocks of several values.
    by_value = order is not None or part.n_rows != part.shape[0]
    one_by_one = formats.FORMATS[stored.format].block_columns == 1
    if len(expected) == 1 and by_value and not one_by_one:
        raise UnsupportedModelError(f"{what} is a vector in {stored.type_name}; use F32")
    source = _rows(part, stored, stored.format, order, is_transposed)
    return Tensor(name, stored.name, stored.format, part.shape, source)


def _rows(
    part: Part,
    stored: StoredTensor,
    format: str,
    order: npt.NDArray[np.intp] | None,
    is_transposed: bool,
) -> RowSource:
    n_rows = part.shape[0]
    if is_transposed:  # of a folder, whose formats have no blocks
        value_bytes = formats.row_bytes(1, format)
        return TransposedRows(
            stored.file,
            stored.name,
            stored.offset,
            stored.shape,
            value_bytes,
            part.first_row,
            n_rows,
            order,
        )
    if len(part.shape) > 1:
        row_bytes = formats.row_bytes(part.shape[-1], format)
        n_rows = math.prod(part.shape[:-1])
        return FileRows(
            stored.file,
            stored.name,
            stored.offset + part.first_row * row_bytes,
            n_rows,
            row_bytes,
            order,
        )
    if order is None and part.n_rows == n_rows:
        return FileRows(
            stored.file, stored.name, stored.offset, 1, formats.row_bytes(n_rows, format)
        )
    # A vector's "rows" are its values.
    value_bytes = formats.row_bytes(1, format)
    offset = stored.offset + part.first_row * value_bytes
    return JoinedRows(FileRows(stored.file, stored.name, offset, n_rows, value_bytes, order))
