"""A step's arrays on the GPU: see memory.py for what each kind is for.

What the host refills lies in one run of pinned memory, with a twin on the device: one copy brings a
step's inputs, another its outputs.  Tables are too large for that.  Of them only what changed is
sent: single numbers as patches, (address, value) pairs among the inputs that a kernel stores at the
beginning of the step; longer runs as copies of their own, before it.

In Triton's interpreter the twin is another CPU tensor, so that an input which was not uploaded is
missed there as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from pyroclast_kernels.gpu.arena import MAX_PATCHES, MirroredTable, PinnedArena, apply_patches
from pyroclast_kernels.memory import Array, Shape
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import host_tensor
from pyroclast_kernels.triton.weights import DeviceWeight, pack_rows

# Rows of weights go through two pinned buffers in turn: one is filled while the other one's copy
# is under way.
_STAGE_BYTES = 32 << 20


class DeviceArray:
    """An array on the GPU, as a recorded step uses it: shape and dtype are NumPy's; the tensor is
    what host_tensor() would make of such an array."""

    __slots__ = ("dtype", "shape", "tensor")

    def __init__(self, tensor: Any, dtype: Any) -> None:
        self.tensor, self.dtype = tensor, np.dtype(dtype)
        shape = tuple(tensor.shape)
        self.shape: Shape = shape[:-1] if self.dtype.names else shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype.itemsize)

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self.tensor[key], self.dtype)

    def reshape(self, *shape: int) -> DeviceArray:
        """The same memory in another shape."""
        inner = self.tensor.shape[len(self.shape) :]
        return DeviceArray(self.tensor.view(*shape, *inner), self.dtype)

    def __setitem__(self, key: Any, value: float) -> None:
        self.tensor[key] = value


class DeviceMemory:
    """The memory of one model on the GPU; KernelError where there is none."""

    on_gpu = True

    def __init__(self) -> None:
        self._device = triton_device.device()
        self._inputs, self._outputs, self._rare = PinnedArena(), PinnedArena(), PinnedArena()
        self._tables: dict[int, MirroredTable] = {}
        self._noted: list[tuple[MirroredTable, int, int]] = []
        self._n_patches = self.inputs((1,), np.int64)
        self._patches = self.inputs((MAX_PATCHES, 2), np.int64)
        self._patch_tensors: tuple[Any, ...] = (
            self.tensor(self._n_patches),
            self.tensor(self._patches),
        )
        self._stages: list[Any] = []
        self._next_stage = 0

    # ---- what a model asks for -------------------------------------------------------------

    def zeros(self, shape: Shape, dtype: Any) -> DeviceArray:
        like = host_tensor(np.zeros(1, dtype))
        full = (*shape, *like.shape[1:])
        return DeviceArray(torch.zeros(full, dtype=like.dtype, device=self._device), dtype)

    def inputs(self, shape: Shape, dtype: Any) -> Array:
        return self._inputs.take(shape, dtype)

    def outputs(self, shape: Shape, dtype: Any, rarely: bool = False) -> Array:
        return (self._rare if rarely else self._outputs).take(shape, dtype)

    def table(self, shape: Shape, dtype: Any) -> Array:
        table = MirroredTable(shape, dtype)
        self._tables[table.host.ctypes.data] = table
        return table.host

    def constant(self, values: Array) -> DeviceArray:
        host = host_tensor(np.array(values))  # a copy: what comes from a file cannot be written
        return DeviceArray(host.to(self._device, copy=True), values.dtype)

    def refill(self, constant: DeviceArray, values: Array) -> None:
        constant.tensor.copy_(host_tensor(np.array(values)))

    def weight(self, format: str, n_rows: int, n_cols: int) -> DeviceWeight:
        return DeviceWeight.empty(format, n_rows, n_cols)

    def pack(self, raw: Array, weight: DeviceWeight, row_offset: int) -> None:
        """Packs rows as they lie in a file, through pinned buffers."""
        step = max(1, _STAGE_BYTES // raw.shape[1])
        for first in range(0, len(raw), step):
            run = raw[first : first + step]
            pinned, copied = self._stage(run.nbytes)
            rows = pinned[: run.nbytes].view(run.shape)
            rows.numpy()[:] = run
            pack_rows(rows, weight, row_offset + first)
            if copied is not None:
                copied.record()

    def _stage(self, n_bytes: int) -> tuple[Any, Any]:
        """A pinned buffer that no copy reads any more, and the event to record after its next."""
        is_cuda = self._device.type == "cuda"
        if not self._stages:
            size = max(_STAGE_BYTES, n_bytes)
            self._stages = [
                (
                    torch.empty(size, dtype=torch.uint8, pin_memory=is_cuda),
                    torch.cuda.Event() if is_cuda else None,
                )
                for _ in range(2)
            ]
        pinned, copied = self._stages[self._next_stage]
        if len(pinned) < n_bytes:
            self._stages = []
            self.wait()
            return self._stage(n_bytes)
        self._next_stage = 1 - self._next_stage
        if copied is not None:
            copied.synchronize()
        return pinned, copied

    def loaded(self) -> None:
        """All weights are there: waits for the last one, and gives the buffers back, and what
        laying the weights out took beside them."""
        self.wait()
        self._stages = []
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    # ---- what changes ----------------------------------------------------------------------

    def note(self, table: Array, first: int, last: int) -> None:
        """Notes that elements [first, last) of a table, counted flat, go to the device before the
        next step."""
        self._noted.append((self._tables[table.ctypes.data], first, last))

    def note_changes(self, table: Array, n_rows: int, n_cols: int) -> None:
        """Notes whatever differs from what was sent, in [:n_rows, :n_cols] of a table."""
        known = self._tables[table.ctypes.data]
        if known.shadow is None:
            known.shadow = np.full_like(table, -1)
        now, before = table[:n_rows, :n_cols], known.shadow[:n_rows, :n_cols]
        row, col = np.nonzero(now != before)
        if not len(row):
            return
        if len(row) <= MAX_PATCHES // 2:
            for place in (row * table.shape[1] + col).tolist():
                self._noted.append((known, place, place + 1))
        else:
            self._noted.append((known, 0, n_rows * table.shape[1]))
            n_cols = table.shape[1]
        known.shadow[:n_rows, :n_cols] = table[:n_rows, :n_cols]

    def forget(self) -> None:
        """After an interruption: sends tables again, since the device's copies may be stale."""
        for table in self._tables.values():
            table.shadow = None

    def send_noted(self) -> None:
        """Writes the noted changes into the patches; sends runs that do not fit there."""
        n_patches = 0
        for table, first, last in self._noted:
            a, b = first * table.words_each, last * table.words_each
            end = n_patches + b - a
            if end > MAX_PATCHES:
                run = torch.from_numpy(table.words[a:b])
                table.twin[a:b].copy_(run, non_blocking=True)
                continue
            address = table.twin.data_ptr()
            self._patches[n_patches:end, 0] = range(address + 4 * a, address + 4 * b, 4)
            self._patches[n_patches:end, 1] = table.words[a:b]
            n_patches = end
        self._n_patches[0] = n_patches
        self._noted.clear()

    # ---- a step ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Enqueues the copy of the inputs, and the patches."""
        self._inputs.upload()
        apply_patches(*self._patch_tensors)

    def end(self) -> None:
        """Enqueues the copy of the outputs."""
        self._outputs.download()

    def wait(self) -> None:
        """Waits until all enqueued work is done."""
        if self._device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def tensor(self, value: Any) -> Any:
        """What a launch gets for an argument of a recorded call: a tensor of the device for an
        array, anything else as it is."""
        if isinstance(value, DeviceArray):
            return value.tensor
        if not isinstance(value, np.ndarray):
            return value
        like = host_tensor(value)
        begin, size = value.ctypes.data, value.nbytes
        for twin, host in self._pairs():
            first = begin - host.ctypes.data
            if first >= 0 and first + size <= host.nbytes:
                assert value.flags.c_contiguous
                run = twin.view(torch.uint8)[first : first + size]
                return run.view(like.dtype).view(like.shape)
        raise AssertionError(f"an array {value.shape} of {value.dtype} that is not of this memory")

    def _pairs(self) -> list[tuple[Any, Array]]:
        """The arrays that lie both on the device and on the host."""
        chunks = (*self._inputs.chunks, *self._outputs.chunks, *self._rare.chunks)
        found: list[tuple[Any, Array]] = [(chunk.twin, chunk.host) for chunk in chunks]
        return found + [(table.twin, table.words) for table in self._tables.values()]

    def fetch(self, output: Array, n_rows: int) -> None:
        """Brings the first rows of an output that is rarely wanted; waits."""
        rows = output[:n_rows]
        if rows.size:
            host_tensor(rows).copy_(self.tensor(rows))

    def to_host(self, array: DeviceArray, n_rows: int) -> Array:
        """The first rows as a NumPy array of their own; bfloat16 becomes float32.  Waits."""
        tensor = array.tensor[:n_rows]
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        found: Array = tensor.to("cpu", copy=True).contiguous().numpy()
        return found.view(array.dtype)[..., 0] if array.dtype.names else found

    def close(self) -> None:
        """Gives freed memory back to the device, after the arrays have been dropped."""
        self._tables.clear()
        self._noted.clear()
        self._patch_tensors = ()
        self._inputs, self._outputs, self._rare = PinnedArena(), PinnedArena(), PinnedArena()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def free_bytes() -> tuple[int, int]:
    """Memory of the GPU in bytes: what is free, what there is.  What torch keeps for later counts
    as free."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return int(free), int(total)
