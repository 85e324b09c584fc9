"""Where the arrays of a step lie: in the host's memory, on the GPU (gpu/memory.py), or nowhere,
to count what a model would take before it is loaded.

Whoever makes the arrays of a step asks one of these for them, by what they are for:

    zeros     results and state, which kernels write and read
    inputs    small, filled by the caller before every step: always NumPy
    table     large and rarely changing: NumPy; whoever changes a part of it says so with `note`
    outputs   what a step gives back: NumPy; `fetch` brings those that are rarely wanted
    constant  filled once, and by `refill` when the weights are updated
    weight    a matrix of a format, filled by `pack` with rows as they lie in a file

On the host all of them are NumPy arrays that the kernels use in place, zero pages until touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pyroclast_kernels.huge_pages import HugePages, untouched_zeros
from pyroclast_kernels.weights import BLOCK_FORMATS
from pyroclast_kernels.weights.blocks import BLOCK, LAYOUTS
from pyroclast_kernels.weights.packing import PackedWeight, packed_bytes

if TYPE_CHECKING:
    from pyroclast_kernels.file_loading import FileLoading
    from pyroclast_kernels.selection import Selection

Array = NDArray[Any]
Shape = tuple[int, ...]


class Weight(Protocol):
    """A matrix (n_rows, n_cols) as the kernels of a device take it."""

    @property
    def format(self) -> str: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def n_cols(self) -> int: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def takes_q8(self) -> bool: ...


class Memory(Protocol):
    """See the top of this file.  on_gpu: what `zeros` gives are arrays of the GPU."""

    on_gpu: bool

    def zeros(self, shape: Shape, dtype: Any) -> Any: ...
    def inputs(self, shape: Shape, dtype: Any) -> Array: ...
    def table(self, shape: Shape, dtype: Any) -> Array: ...
    def outputs(self, shape: Shape, dtype: Any, rarely: bool = False) -> Array: ...
    def constant(self, values: Array) -> Any: ...
    def refill(self, constant: Any, values: Array) -> None: ...
    def weight(self, format: str, n_rows: int, n_cols: int) -> Any: ...
    def pack(self, raw: Array, weight: Any, row_offset: int) -> None: ...
    def loaded(self) -> None: ...
    def note(self, table: Array, first: int, last: int) -> None: ...
    def fetch(self, output: Array, n_rows: int) -> None: ...
    def to_host(self, array: Any, n_rows: int) -> Array: ...
    def close(self) -> None: ...


class HostMemory:
    """NumPy arrays.  The op `pack` of the selection packs weights, on the executor's threads;
    without a selection no weight can be packed."""

    on_gpu = False

    def __init__(self, selection: Selection | None = None, executor: Any = None) -> None:
        self._selection, self._executor = selection, executor
        self._pages = HugePages()

    def zeros(self, shape: Shape, dtype: Any) -> Array:
        return untouched_zeros(shape, dtype)

    def inputs(self, shape: Shape, dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def table(self, shape: Shape, dtype: Any) -> Array:
        return np.zeros(shape, dtype)

    def outputs(self, shape: Shape, dtype: Any, rarely: bool = False) -> Array:
        del rarely
        return np.zeros(shape, dtype)

    def constant(self, values: Array) -> Array:
        return values

    def refill(self, constant: Array, values: Array) -> None:
        constant[...] = values

    def weight(self, format: str, n_rows: int, n_cols: int) -> PackedWeight:
        return PackedWeight.empty(format, n_rows, n_cols, self._pages)

    def pack(self, raw: Array, weight: PackedWeight, row_offset: int) -> None:
        from pyroclast_kernels.program import Program, Recorder

        assert self._selection is not None, "packing is an op, which somebody has to choose"
        recorder = Recorder(self._selection)
        recorder.call(
            "pack",
            weight.format,
            raw=raw,
            weight=weight,
            n_rows=len(raw),
            n_cols=weight.n_cols,
            row_offset=row_offset,
        )
        Program(recorder.calls, self._executor).run()

    def file_loading(self) -> FileLoading:
        """Packs rows of files, many in one call, before `loaded`."""
        from pyroclast_kernels.file_loading import FileLoading

        assert self._selection is not None, "packing is an op, which somebody has to choose"
        return FileLoading(self._selection, self._executor)

    def loaded(self) -> None:
        """No more weights: lets go of the executor, which may be closed, and of unused pages."""
        self._selection = self._executor = None
        self._pages = HugePages()

    def note(self, table: Array, first: int, last: int) -> None:
        """Nothing to do: kernels read the table itself."""

    def fetch(self, output: Array, n_rows: int) -> None:
        """Nothing to do: kernels wrote the array itself."""

    def to_host(self, array: Array, n_rows: int) -> Array:
        return array[:n_rows]

    def close(self) -> None:
        """Nothing to do: arrays go when nobody has them any more."""


@dataclass(frozen=True)
class CountedWeight:
    """The shape and size of a weight, without its values."""

    format: str
    n_rows: int
    n_cols: int
    n_bytes: int

    @property
    def takes_q8(self) -> bool:
        return self.format in BLOCK_FORMATS


class CountingMemory:
    """Counts the bytes, on the GPU or on the host, of all that is asked for; but for inputs, the
    arrays have a shape and a dtype, and no memory of their own."""

    def __init__(self, *, on_gpu: bool) -> None:
        self.on_gpu, self.n_bytes = on_gpu, 0

    def zeros(self, shape: Shape, dtype: Any) -> Array:
        array: Array = np.broadcast_to(np.zeros((), dtype), shape)
        self.n_bytes += math.prod(shape) * array.dtype.itemsize
        return array

    def inputs(self, shape: Shape, dtype: Any) -> Array:
        array: Array = np.zeros(shape, dtype)  # small, and some are written at once
        self.n_bytes += array.nbytes
        return array

    def table(self, shape: Shape, dtype: Any) -> Array:
        return self.zeros(shape, dtype)

    def outputs(self, shape: Shape, dtype: Any, rarely: bool = False) -> Array:
        del rarely
        return self.zeros(shape, dtype)

    def constant(self, values: Array) -> Array:
        return self.zeros(values.shape, values.dtype)

    def refill(self, constant: Array, values: Array) -> None:
        """Nothing: there is no place for it."""

    def weight(self, format: str, n_rows: int, n_cols: int) -> CountedWeight:
        count = device_weight_bytes if self.on_gpu else packed_bytes
        weight = CountedWeight(format, n_rows, n_cols, count(format, n_rows, n_cols))
        self.n_bytes += weight.n_bytes
        return weight

    def pack(self, raw: Array, weight: CountedWeight, row_offset: int) -> None:
        """Nothing: there is no place for it."""

    def loaded(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def note(self, table: Array, first: int, last: int) -> None:
        """Nothing."""

    def fetch(self, output: Array, n_rows: int) -> None:
        """Nothing."""

    def to_host(self, array: Array, n_rows: int) -> Array:
        return array[:n_rows]


def device_weight_bytes(format: str, n_rows: int, n_cols: int) -> int:
    """Bytes of a weight on the GPU, laid out as triton/weights.py says."""
    if format not in LAYOUTS:
        return n_rows * n_cols * {"f32": 4, "f16": 2, "bf16": 2}[format]
    layout, n_blocks = LAYOUTS[format], n_cols // BLOCK
    codes = -(-n_blocks // 2) * BLOCK if layout.has_nibbles else n_cols
    header_bytes = layout.header_bytes + 2 * (format in ("mxfp4", "t4_k"))  # float32 there
    return n_rows * (codes + n_cols // layout.columns * header_bytes)
