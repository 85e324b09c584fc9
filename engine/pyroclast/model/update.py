"""Other values for the weights of a loaded model, in the memory that its steps read.

`prepare` does all that can fail: it reads, checks and quantizes the new values beside the old ones.
`Prepared.lay` then only moves bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.tensor import Bytes, Tensor
from pyroclast.errors import RequestError
from pyroclast.families.config import ModelConfig
from pyroclast.families.tensors import is_matrix
from pyroclast.model.load_plan import Plan
from pyroclast.model.make_memory import make_memory
from pyroclast.model.packer import Place
from pyroclast.model.weights import Weights
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.memory import Memory

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from pyroclast.checkpoint.packed import PackedWeights

_SLICE_VALUES = 1 << 20  # quantized by one thread at a time


@dataclass(frozen=True)
class Rows:
    """Packed rows to be: bytes as in a file, for a weight from first_row on."""

    raw: Bytes
    weight: Any
    first_row: int


@dataclass(frozen=True)
class Prepared:
    """What an update changes.  values: (array of the model, new values)."""

    rows: tuple[Rows, ...]
    values: tuple[tuple[Any, NDArray[np.float32]], ...]

    def lay(self, memory: Memory, plan: Plan, executor: Any) -> None:
        """Puts everything in its place, in the memory of a model of that plan.  No step may run
        meanwhile."""
        # A loaded model's memory on the host packs nothing any more.
        packing = memory if memory.on_gpu else make_memory(plan, executor)

        def lay() -> None:
            for array, values in self.values:
                memory.refill(array, values)
            for each in self.rows:
                packing.pack(each.raw, each.weight, each.first_row)

        uninterrupted(lay)


def uninterrupted(work: Callable[[], None]) -> None:
    """Does `work`, which may be repeated after it was cut off.  Ctrl-C is raised when all of it is
    done: half of an update would be another model."""
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            work()
            break
        except KeyboardInterrupt as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


def prepare(
    config: ModelConfig,
    weights: Weights,
    tensors: Mapping[str, Any],
    n_threads: int,
    packed: PackedWeights | None,
) -> Prepared:
    """The bytes of every given weight, in the format that the model keeps it in.  RequestError,
    with the tensor's name, for what does not fit, and for a model whose weights are those of a
    packed file."""
    if packed is not None:
        raise RequestError(
            f"{packed.file.path}: the weights of a packed file are shared by all who map it and "
            'cannot be updated; load the file that it was made from, or use compute="float32"'
        )
    # Late: few models are updated.
    from concurrent.futures import ThreadPoolExecutor

    from pyroclast.checkpoint.given import match_given

    given, places = match_given(config, tensors), weights.places
    rows: list[Rows] = []
    values = []
    with ThreadPoolExecutor(n_threads) as threads:
        for name, tensor in given.tensors.items():
            place = places[name]
            if is_matrix(name):
                rows += _rows(tensor, place, threads)
            else:
                offset = np.float32(given.offset_of(name))
                changed = np.ascontiguousarray(place.change(tensor.float32() + offset), np.float32)
                values += [(target, changed) for target in (place.target, *place.copies)]
    return Prepared(tuple(rows), tuple(values))


def _rows(tensor: Tensor, place: Place, threads: ThreadPoolExecutor) -> list[Rows]:
    raw = _encoded(tensor, place.target.format, threads)
    n_items = tensor.shape[0] if len(tensor.shape) == 3 else 1
    n_rows = tensor.shape[-2]
    return [
        Rows(raw[i * n_rows : (i + 1) * n_rows], place.target, first + i * place.stride)
        for first in (place.first_row, *place.again)
        for i in range(n_items)
    ]


def _encoded(tensor: Tensor, format: str, threads: ThreadPoolExecutor) -> Bytes:
    from pyroclast_kernels.weights.encode import encode

    values = tensor.float32().reshape(tensor.n_rows, tensor.shape[-1])
    limit = float(np.finfo(np.float16).max)
    if format == "f16" and np.abs(values).max(initial=0.0) > limit:
        raise RequestError(
            f"tensor {tensor.source_name!r} has values beyond {limit:g}, and this model keeps it "
            'in float16; load the model with compute="float32"'
        )
    if format == "f32":
        return values.view(np.uint8)
    step = max(1, _SLICE_VALUES // tensor.shape[-1])
    slices = [values[i : i + step] for i in range(0, len(values), step)]
    try:
        return np.concatenate(list(threads.map(lambda each: encode(each, format), slices)))
    except KernelLibraryError as error:
        raise RequestError(
            f"tensor {tensor.source_name!r} is kept in {format.upper()}, and {error}; load the "
            'model with compute="float32" or in another format ("folder@q8_0")'
        ) from error
