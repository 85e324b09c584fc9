"""Packs one tensor, or several that one product reads, into the layout of a memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint, Tensor
from pyroclast.checkpoint.read_ahead import ReadAhead
from pyroclast.checkpoint.stacks import AlternatingRows
from pyroclast.checkpoint.tensor import converted
from pyroclast.errors import UnsupportedModelError
from pyroclast.families.layer_spec import NormSpec
from pyroclast.files.packed_file import entry_name
from pyroclast.model.row_queue import RowQueue
from pyroclast_kernels.experts import stacked_rows
from pyroclast_kernels.memory import CountingMemory, Memory, Weight
from pyroclast_kernels.weights.formats import row_bytes

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """One product: rows [row_offset, row_offset + weight.n_rows) of what a layer multiplies by.  Of
    experts it is all of theirs, as `expert_gate_up` reads them, and bias has a row for each."""

    weight: Weight
    row_offset: int
    bias: Floats | None = None


@dataclass(frozen=True)
class Place:
    """A matrix in a weight from first_row on (items of a stack `stride` rows apart), and once more
    from each row of `again` on; or an array, and its `copies`, of what `change` makes of the
    tensor's values."""

    target: Any
    first_row: int = 0
    stride: int = 0
    again: tuple[int, ...] = ()
    copies: tuple[Any, ...] = ()
    change: Callable[[Floats], Floats] = np.asarray


@dataclass(frozen=True)
class Norm:
    """A norm's weights, their offset added, and its bias if it has one."""

    weight: Floats
    bias: Floats | None = None


class Packer:
    """Puts tensors into a memory; float32 mode dequantizes them first.  Where the memory only
    counts, nothing is read.  queue: what may wait in it is packed when it is flushed."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        memory: Memory,
        float32: bool,
        reader: ReadAhead,
        queue: RowQueue | None = None,
    ) -> None:
        self._tensors = checkpoint.tensors
        self._queue = queue
        self._memory, self._float32, self._reader = memory, float32, reader
        self._reads = not isinstance(memory, CountingMemory)
        self.places: dict[str, Place] = {}
        # A packed file's weights are used where they are.
        self._packed = checkpoint.packed if self._reads and not float32 else None

    def vector(self, *names: str, offset: float = 0.0) -> Any:
        """A norm's weights plus its offset, or biases one after the other: float32, contiguous."""
        tensors = [self._tensors[name] for name in names]
        if not self._reads:
            return self._memory.zeros((sum(t.shape[0] for t in tensors),), np.float32)
        values = np.concatenate([tensor.float32() for tensor in tensors], dtype=np.float32)
        return self._constant(names, values + np.float32(offset) if offset else values)

    def _constant(self, names: Sequence[str], values: Floats) -> Any:
        """An array of the named vectors, side by side."""
        array, first = self._memory.constant(values), 0
        parts: dict[str, list[Any]] = {}  # of a name that stands twice, both
        for name in names:
            last = first + self._tensors[name].shape[-1]
            parts.setdefault(name, []).append(array[..., first:last])
            first = last
        self.places |= {
            name: Place(each[0], copies=tuple(each[1:])) for name, each in parts.items()
        }
        return array

    def array(self, name: str, change: Callable[[Floats], Floats]) -> Any:
        """What `change` makes of a tensor's values: float32, contiguous."""
        tensor = self._tensors[name]
        if not self._reads:
            return self._memory.zeros(change(np.ones(tensor.shape, np.float32)).shape, np.float32)
        values = np.ascontiguousarray(change(tensor.float32()), np.float32)
        self.places[name] = Place(array := self._memory.constant(values), change=change)
        return array

    def ones(self, n: int) -> Any:
        """The weights of a norm that multiplies by nothing."""
        return self._memory.constant(np.ones(n, np.float32))

    def norm(self, name: str, spec: NormSpec) -> Norm:
        """The norm of that name."""
        bias = self.vector(f"{name}_bias") if spec.bias else None
        return Norm(self.vector(name, offset=spec.weight_offset), bias)

    def products(self, names: list[str], biases: list[str] | None = None) -> tuple[Product, ...]:
        """The named matrices below one another, neighbours of one format as one product."""
        found: list[Product] = []
        run: list[Tensor] = []
        offset = 0
        for tensor in (self._tensors[name] for name in names):
            if run and self._format(run[0]) != self._format(tensor):
                found.append(Product(self._packed_run(run), offset))
                offset += sum(t.shape[0] for t in run)
                run = []
            run.append(tensor)
        found.append(Product(self._packed_run(run), offset))
        if not biases:
            return tuple(found)
        bias = self.vector(*biases)
        return tuple(
            Product(p.weight, p.row_offset, bias[p.row_offset : p.row_offset + p.weight.n_rows])
            for p in found
        )

    def _packed_run(self, run: list[Tensor]) -> Weight:
        weight, first_row = self.pack(run), 0
        for tensor in run:
            before = self.places.get(tensor.name)
            if before is not None and before.target is weight:
                place = replace(before, again=(*before.again, first_row))
            else:
                place = Place(weight, first_row)
            self.places[tensor.name] = place
            first_row += tensor.shape[0]
        return weight

    def experts(self, names: Sequence[str], biases: Sequence[str]) -> tuple[Product, ...]:
        """The named stacks of matrices as one product: of each expert a matrix of every stack, one
        below the other, each filled up to whole groups of rows."""
        tensors = [self._tensors[name] for name in names]
        first, formats = tensors[0], {self._format(tensor) for tensor in tensors}
        if len(formats) > 1:
            raise UnsupportedModelError(
                f"{first.source_name!r} and {tensors[-1].source_name!r} have different types, "
                f"{' and '.join(sorted(formats))}; experts need gate and up in one, as "
                "`pyroclast convert` writes them"
            )
        n_experts, n_rows, n_cols = first.shape
        stride = stacked_rows(n_rows)
        # Gate and up may differ in type where both become float32.
        stored = [converted(tensor, "f32") if self._float32 else tensor for tensor in tensors]
        source = AlternatingRows(
            [tensor.source for tensor in stored],
            n_rows,
            stride,
            row_bytes(n_cols, stored[0].format),
        )
        shape = (n_experts * len(tensors) * stride, n_cols)
        weight = self.pack([replace(stored[0], name=entry_name(names), shape=shape, source=source)])
        for i, name in enumerate(names):
            self.places[name] = Place(weight, i * stride, len(names) * stride)
        return (Product(weight, 0, self.expert_biases(biases) if biases else None),)

    def expert_biases(self, names: Sequence[str]) -> Any:
        """A row for each expert, of the named biases side by side."""
        tensors = [self._tensors[name] for name in names]
        if not self._reads:
            n_cols = sum(tensor.shape[1] for tensor in tensors)
            return self._memory.zeros((tensors[0].shape[0], n_cols), np.float32)
        values = np.concatenate([tensor.float32() for tensor in tensors], axis=1, dtype=np.float32)
        return self._constant(names, values)

    def _format(self, tensor: Tensor) -> str:
        return "f32" if self._float32 else tensor.format

    def pack(self, tensors: list[Tensor]) -> Weight:
        """Tensors of one format and width as one weight."""
        if self._packed is not None:
            return self._packed.weight([t.name for t in tensors])
        n_rows, n_cols = sum(t.shape[0] for t in tensors), tensors[0].shape[1]
        weight: Weight = self._memory.weight(self._format(tensors[0]), n_rows, n_cols)
        offset = 0
        for tensor in tensors if self._reads else ():
            stored = converted(tensor, "f32") if self._float32 else tensor
            if self._queue is None or not self._queue.add(stored, weight, offset):
                for first, raw in self._reader.runs(stored):
                    self._memory.pack(raw, weight, offset + first)
            offset += tensor.shape[0]
        return weight
