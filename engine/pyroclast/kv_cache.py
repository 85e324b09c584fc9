"""The paged key-value cache: storage for every layer, and its size.

Blocks of BLOCK_SIZE positions, handed out by `blocks.BlockPool`, which knows nothing of arrays.
The layout is that of pyroclast_kernels.attention: keys with the positions side by side, values
with the dimensions side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyroclast.config import ModelConfig
from pyroclast.errors import MemoryBudgetError, RequestError

BLOCK_SIZE = 32
DTYPES = {"f32": np.float32, "f16": np.float16}
_LANES = 16
# Full-length sequences that the cache has room for by default; pages that no sequence has reached
# are never touched, so they cost address space only.
_DEFAULT_SEQUENCES = 8


def value_stride(head_dim: int) -> int:
    """Values of a head in the cache, padded to whole vectors."""
    return -(-head_dim // _LANES) * _LANES


def block_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of one block over all layers, keys and values."""
    per_position = config.n_kv_heads * (config.head_dim + value_stride(config.head_dim))
    return config.n_layers * BLOCK_SIZE * per_position * np.dtype(DTYPES[dtype]).itemsize


def available_bytes() -> int:
    """Memory that can be had without swapping, as Linux estimates it."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 4 << 30


def choose_n_blocks(config: ModelConfig, dtype: str, n_blocks: int | None) -> int:
    """The number of blocks: as asked for, or room for several full-length sequences within half
    of the memory that is available.  MemoryBudgetError if even one block does not fit."""
    size, available = block_bytes(config, dtype), available_bytes()
    if n_blocks is not None:
        if n_blocks < 1:
            raise RequestError(f"n_blocks must be at least 1, got {n_blocks}")
        if n_blocks * size > available:
            raise MemoryBudgetError(
                f"{n_blocks} cache blocks need {n_blocks * size >> 20} MiB, {available >> 20} MiB "
                "are available; ask for fewer, or for a smaller kv_dtype"
            )
        return n_blocks
    wanted = _DEFAULT_SEQUENCES * -(-config.max_seq_len // BLOCK_SIZE)
    affordable = available // 2 // size
    if affordable < 1:
        raise MemoryBudgetError(
            f"one cache block needs {size >> 10} KiB, only {available >> 10} KiB are available"
        )
    return min(wanted, affordable)


class KVCache:
    """k: per layer (n_blocks, n_kv_heads, head_dim, BLOCK_SIZE); v: per layer (n_blocks,
    n_kv_heads, BLOCK_SIZE, value_stride); zero until written."""

    def __init__(self, config: ModelConfig, dtype: str, n_blocks: int) -> None:
        self.dtype, self.n_blocks = dtype, n_blocks
        heads = (n_blocks, config.n_kv_heads)
        stride = value_stride(config.head_dim)
        cell = DTYPES[dtype]
        self.k = [
            np.zeros((*heads, config.head_dim, BLOCK_SIZE), cell) for _ in range(config.n_layers)
        ]
        self.v = [np.zeros((*heads, BLOCK_SIZE, stride), cell) for _ in range(config.n_layers)]

    @property
    def n_bytes(self) -> int:
        """Bytes of all blocks; what has not been touched is not resident."""
        return sum(array.nbytes for array in (*self.k, *self.v))

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Clears blocks that may hold a NaN: a later owner multiplies stale cells by zero."""
        for array in (*self.k, *self.v):
            array[list(block_ids)] = 0
