"""Where a weight lies in a file: a tensor of its own, or rows of one that holds several."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.stacks import FilledRows, FolderMxfp4Rows, StackedRows
from pyroclast.checkpoint.tensor import FileRows, JoinedRows, RowSource, Tensor, TransposedRows
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.draft_head import PRODUCTS
from pyroclast.families.family import Family
from pyroclast.families.tensors import Shape, is_matrix, name_in_file, template_of
from pyroclast.files.model_file import ModelFile
from pyroclast_kernels.weights import formats


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as either file format describes it; format is None if it cannot be a weight.  scales
    are those of MXFP4 in a folder, a tensor of their own (`stacks.FolderMxfp4Rows`).
    stored_rows: the file has only so many of the rows, and for all others the first."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    format: str | None
    file: ModelFile
    offset: int
    scales: StoredTensor | None = None
    stored_rows: int | None = None

    def item(self, i: int) -> StoredTensor:
        """The i-th matrix of a stack, or vector of a matrix."""
        if self.format is None:
            return self
        rows = math.prod(self.shape[1:-1])
        each = formats.row_bytes(self.shape[-1], self.format)
        scales = self.scales
        if scales is not None:
            each -= scales.shape[-1]
            scales = replace(scales, offset=scales.offset + i * rows * scales.shape[-1])
        return replace(
            self, shape=self.shape[1:], offset=self.offset + i * rows * each, scales=scales
        )


@dataclass(frozen=True)
class Naming:
    """How files of one format name and store a family's weights; the fields are Family's."""

    names: Mapping[str, str]
    paired: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    transposed: frozenset[str] = frozenset()
    alternating: frozenset[str] = frozenset()
    by_head: frozenset[str] = frozenset()

    @classmethod
    def of_gguf(cls, family: Family) -> Naming:
        """Of the family's GGUF files."""
        return cls(
            family.gguf_tensors,
            family.gguf_paired,
            family.gguf_fused,
            alternating=frozenset(PRODUCTS),
            by_head=family.by_head,
        )

    @classmethod
    def of_folder(cls, family: Family) -> Naming:
        """Of the family's Hugging Face folders."""
        return cls(
            family.hf_tensors,
            fused=family.hf_fused,
            transposed=family.hf_transposed,
            alternating=family.hf_alternating | {*PRODUCTS},
            by_head=family.by_head,
        )


@dataclass(frozen=True)
class Part:
    """Rows first_row, first_row + step, ... of the tensor that a file calls by the one name in
    keys, which has n_rows of them; values, of a vector.  With a run, these count runs of so many
    rows.  Of a stack they are those of each item; or keys has a tensor for each."""

    keys: tuple[str, ...]
    shape: Shape
    first_row: int
    n_rows: int
    step: int = 1
    run: int = 1

    @property
    def item(self) -> Part:
        """The same of one item of a stack."""
        return replace(self, shape=self.shape[1:])

    @property
    def order(self) -> npt.NDArray[np.intp] | None:
        """Which row of the file each row is; None where they lie together."""
        if self.step == 1:
            return None
        runs = np.arange(self.n_rows).reshape(-1, self.run)
        return runs[self.first_row :: self.step].reshape(-1)


def find_part(
    naming: Naming, stored: Mapping[str, object], shapes: Mapping[str, Shape], name: str
) -> Part:
    """Where the weight of that canonical name lies; ModelFileError if it is nowhere.  shapes are
    those of all weights of the model."""
    part, own = seek_part(naming, stored, shapes, name)
    if part is None:
        raise ModelFileError(f"tensor {own!r} is missing")
    return part


def seek_part(
    naming: Naming, stored: Collection[str], shapes: Mapping[str, Shape], name: str
) -> tuple[Part | None, str | None]:
    """Where it lies, or None if it is nowhere, and the name that the tensor should have."""
    shape = shapes[name]
    n_rows = _n_rows(name, shape)
    template, layer = template_of(name)
    own = name_in_file(naming.names, name) if template in naming.names else None
    keys = () if own is None else _each_item(own, shape[0])
    if any(key in stored for key in keys):
        missing = [key for key in keys if key not in stored]
        if missing:
            raise ModelFileError(f"tensor {missing[0]!r} is missing")
        return Part(keys, shape, 0, n_rows), own
    own = keys[0] if keys else None
    prefix, _, weight = name.rpartition(".")
    for fused, weights in naming.fused.items():
        key = fused.format(i=layer)
        if weight not in weights:
            continue
        own = own or key
        if key not in stored:
            continue
        place, others = weights.index(weight), [f"{prefix}.{each}".lstrip(".") for each in weights]
        if weight in naming.alternating or weight in naming.by_head:
            run = shapes[f"{prefix}.q_norm"][0] if weight in naming.by_head else 1
            n_all = len(weights) * n_rows
            return Part((key,), shape, place, n_all, step=len(weights), run=run), own
        sizes = [_n_rows(each, shapes[each]) if each in shapes else 0 for each in others]
        return Part((key,), shape, sum(sizes[:place]), sum(sizes)), own
    return None, own


def _each_item(own: str, n_items: int) -> tuple[str, ...]:
    """The names of a weight's tensors: one for each expert where the table says so."""
    if "{e}" not in own:
        return (own,)
    return tuple(own.format(e=i) for i in range(n_items))


def _n_rows(name: str, shape: Shape) -> int:
    """Rows of a matrix, or of each matrix of a stack; values of a vector, or of each vector."""
    return shape[-2] if is_matrix(name) else shape[-1]


def part_tensor(
    name: str,
    part: Part,
    stored: Sequence[StoredTensor],
    *,
    order: npt.NDArray[np.intp] | None,
    is_transposed: bool,
) -> Tensor:
    """The weight `name`, its shape and format checked; stored are the tensors of part.keys.  order
    rearranges its rows; is_transposed: the file has columns where the weight has rows."""
    first, is_vector = stored[0], not is_matrix(name)
    by_value = order is not None or part.n_rows != _n_rows(name, part.shape)
    is_transposed = is_transposed and not is_vector and first.scales is None
    expected = _expected(name, part, is_transposed)
    for each in stored:
        _check(each, expected, needs_values=by_value and is_vector)
        if each.format != first.format:
            raise UnsupportedModelError(
                f"tensor {each.name!r} has type {each.type_name}, and tensor {first.name!r} of the "
                f"same layer {first.type_name}; store all experts in one type"
            )
    assert first.format is not None
    is_stack = len(part.shape) > (1 if is_vector else 2)
    if is_stack and (len(stored) > 1 or by_value or is_transposed):
        items = stored if len(stored) > 1 else [first.item(i) for i in range(part.shape[0])]
        sources = [_rows(part.item, each, order, is_transposed) for each in items]
        source: RowSource = StackedRows(sources, 1 if is_vector else part.shape[-2])
    else:
        source = _rows(part, first, order, is_transposed)
    if first.stored_rows is not None:
        source = FilledRows(source, first.stored_rows)
    return Tensor(name, first.name, first.format, part.shape, source)


def _expected(name: str, part: Part, is_transposed: bool) -> Shape:
    """The shape that the file's tensor must have, or each of the tensors of a stack."""
    rows_and_columns = (part.n_rows, *part.shape[-1:]) if is_matrix(name) else (part.n_rows,)
    if is_transposed:
        rows_and_columns = rows_and_columns[::-1]
    before = part.shape[: -len(rows_and_columns)] if len(part.keys) == 1 else ()
    return (*before, *rows_and_columns)


def _check(stored: StoredTensor, expected: Shape, *, needs_values: bool) -> None:
    what = f"tensor {stored.name!r}"
    if stored.shape != expected:
        raise ModelFileError(f"{what} has shape {stored.shape}; the config calls for {expected}")
    if stored.format is None:
        raise UnsupportedModelError(
            f"{what} has type {stored.type_name}, which cannot be a weight; supported: "
            "F32, F16, BF16"
        )
    # A vector that is cut or rearranged value by value must not lie in blocks of several values.
    if needs_values and formats.FORMATS[stored.format].block_columns > 1:
        raise UnsupportedModelError(f"{what} is a vector in {stored.type_name}; use F32")


def _rows(
    part: Part, stored: StoredTensor, order: npt.NDArray[np.intp] | None, is_transposed: bool
) -> RowSource:
    """Of one matrix or vector, or of a whole stack as it lies."""
    n_rows, first_row, format = part.shape[0], part.first_row, stored.format
    assert format is not None
    if part.step > 1:
        order, first_row = part.order, 0
    if is_transposed:  # of a folder, whose formats have no blocks
        value_bytes = formats.row_bytes(1, format)
        return TransposedRows(
            stored.file,
            stored.name,
            stored.offset,
            stored.shape,
            value_bytes,
            first_row,
            order,
        )
    if len(part.shape) > 1:
        row_bytes = formats.row_bytes(part.shape[-1], format)
        n_rows = math.prod(part.shape[:-1])
        if stored.scales is not None:
            return _mxfp4_rows(stored, stored.scales, first_row, n_rows, order)
        offset = stored.offset + first_row * row_bytes
        return FileRows(stored.file, stored.name, offset, n_rows, row_bytes, order)
    if order is None and part.n_rows == n_rows:
        return FileRows(
            stored.file, stored.name, stored.offset, 1, formats.row_bytes(n_rows, format)
        )
    # A vector's "rows" are its values.
    value_bytes = formats.row_bytes(1, format)
    offset = stored.offset + first_row * value_bytes
    return JoinedRows(FileRows(stored.file, stored.name, offset, n_rows, value_bytes, order))


def _mxfp4_rows(
    stored: StoredTensor,
    scales: StoredTensor,
    first_row: int,
    n_rows: int,
    order: npt.NDArray[np.intp] | None,
) -> RowSource:
    def rows(each: StoredTensor, row_bytes: int) -> FileRows:
        offset = each.offset + first_row * row_bytes
        return FileRows(each.file, each.name, offset, n_rows, row_bytes, order)

    n_blocks = scales.shape[-1]
    return FolderMxfp4Rows(rows(stored, 16 * n_blocks), rows(scales, n_blocks))


def vector_values(tensor: StoredTensor) -> tuple[float, ...]:
    """The values of a short vector that the config needs."""
    if tensor.format != "f32" or len(tensor.shape) != 1 or tensor.shape[0] > 1 << 16:
        raise ModelFileError(
            f"tensor {tensor.name!r} must be a vector in F32, got {tensor.type_name} of shape "
            f"{tensor.shape}"
        )
    if tensor.offset + 4 * tensor.shape[0] > tensor.file.size:
        raise ModelFileError(
            f"tensor {tensor.name!r}, which the config needs, was cut off: the file ends at "
            f"{tensor.file.size}"
        )
    raw = tensor.file.read(tensor.offset, 4 * tensor.shape[0], f"tensor {tensor.name!r}")
    return struct.unpack(f"<{tensor.shape[0]}f", raw)
