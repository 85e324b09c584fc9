"""What lies on the host and on the device: runs of bytes that are copied as a whole, and tables of
which a kernel patches what changed.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from pyroclast_kernels.memory import Array, Shape
from pyroclast_kernels.triton import device as triton_device

MAX_PATCHES = 512  # words of 4 bytes that change one by one in a step
_PATCH_TILE = 128
_ALIGN = 256
_CHUNK_BYTES = 1 << 20


class _Chunk:
    """A run of bytes on the host, pinned where there is a GPU, and its twin on the device."""

    def __init__(self, n_bytes: int) -> None:
        device = triton_device.device()
        self.pinned = torch.zeros(n_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self.twin = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
        self.host: NDArray[np.uint8] = self.pinned.numpy()
        self.n_used = 0

    def take(self, shape: Shape, dtype: Any) -> Array | None:
        """A zeroed part of the chunk; None if it is full."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        first = self.n_used
        if first + n_bytes > len(self.host):
            return None
        self.n_used = -(-(first + n_bytes) // _ALIGN) * _ALIGN
        found: Array = self.host[first : first + n_bytes].view(dtype).reshape(shape)
        return found


class PinnedArena:
    """Chunks that are copied together; there is nearly always one."""

    def __init__(self) -> None:
        self.chunks: list[_Chunk] = []

    def take(self, shape: Shape, dtype: Any) -> Array:
        """A new array in the host's half."""
        found = self.chunks[-1].take(shape, dtype) if self.chunks else None
        if found is None:
            n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
            self.chunks.append(_Chunk(max(_CHUNK_BYTES, -(-n_bytes // _ALIGN) * _ALIGN)))
            found = self.chunks[-1].take(shape, dtype)
        assert found is not None, "the chunk was made for it"
        return found

    def upload(self) -> None:
        for chunk in self.chunks:
            n = chunk.n_used
            chunk.twin[:n].copy_(chunk.pinned[:n], non_blocking=True)

    def download(self) -> None:
        for chunk in self.chunks:
            n = chunk.n_used
            chunk.pinned[:n].copy_(chunk.twin[:n], non_blocking=True)


class MirroredTable:
    """A NumPy array, its twin on the device, and both as words of 4 bytes.  shadow: what the twin
    holds, of a table whose changes nobody notes."""

    def __init__(self, shape: Shape, dtype: Any) -> None:
        self.host = np.zeros(shape, dtype)
        self.words: NDArray[np.int32] = self.host.reshape(-1).view(np.int32)
        self.twin = torch.zeros(len(self.words), dtype=torch.int32, device=triton_device.device())
        self.words_each = len(self.words) // self.host.size
        self.shadow: Array | None = None


@triton.jit
def _apply_patches(n_patches, patches, tile: tl.constexpr):
    i = tl.program_id(0) * tile + tl.arange(0, tile)
    there = i < tl.load(n_patches)
    address = tl.load(patches + 2 * i, there, 0)
    value = tl.load(patches + 2 * i + 1, there, 0).to(tl.int32)
    tl.store(address.to(tl.pointer_type(tl.int32)), value, there)


def apply_patches(n_patches: Any, patches: Any) -> None:
    """Stores each value at its address on the device: patches int64 (MAX_PATCHES, 2), (address,
    value), of which n_patches int64 (1,) count."""
    grid = (MAX_PATCHES // _PATCH_TILE,)
    _apply_patches[grid](n_patches, patches, tile=_PATCH_TILE, num_warps=4)
