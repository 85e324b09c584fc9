"""The paged key-value cache: storage for every layer, and its size.

Blocks of BLOCK_SIZE positions, handed out by `pyroclast.engine.blocks.BlockPool`, which has no
arrays.
What a block holds in each format is said in pyroclast_kernels.attention.cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyroclast.errors import MemoryBudgetError
from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import AttentionSpec
from pyroclast_kernels.attention.cache import BLOCK_SIZE, DTYPES, block_shapes, value_stride
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.selection import Selection

if TYPE_CHECKING:
    from pyroclast_kernels.memory import Memory

__all__ = [
    "BLOCK_SIZE",
    "DTYPES",
    "KVCache",
    "automatic_dtype",
    "available_bytes",
    "block_bytes",
    "choose_n_blocks",
    "layer_block_bytes",
    "value_stride",
]  # fmt: skip

# Full-length sequences that the cache has room for by default; pages that no sequence has reached
# are never touched, so they cost address space only.
_DEFAULT_SEQUENCES = 8


def automatic_dtype(selection: Selection, quantized: bool) -> str:
    """What kv_dtype "auto" stands for: bf16 where attention has dot products of it and the weights
    are quantized, else f16.

    Those are twice as fast as multiply-adds of f16, and no farther from float32 on the demo model
    (KL divergence 0.00287 against 0.00291 nats a token, standard error 0.00005; q8_0 has
    0.00332, hence is not chosen).  Without 8-bit activations its rounding would show: 0.00015
    against 0.00009 with the same weights in bf16."""
    if not quantized:
        return "f16"
    try:
        variant = selection.variant("attention", "bf16").name
    except KernelError:  # a rule asks for a variant that does not know bf16
        return "f16"
    return "bf16" if variant == "cpp-avx512vnni" else "f16"


def block_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of one block over all layers, keys and values."""
    return sum(layer_block_bytes(spec.attention, dtype) for spec in config.layers)


def layer_block_bytes(attention: AttentionSpec, dtype: str) -> int:
    """Bytes of one block in one layer."""
    cells = sum(math.prod(shape) for shape in block_shapes(dtype, attention.head_dim))
    return attention.n_kv_heads * cells * np.dtype(DTYPES[dtype]).itemsize


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
    """k and v: per layer (n_blocks, n_kv_heads, ...) as block_shapes says; zero until written."""

    def __init__(self, config: ModelConfig, dtype: str, n_blocks: int, memory: Memory) -> None:
        self.dtype, self.n_blocks = dtype, n_blocks
        attentions = [spec.attention for spec in config.layers]
        shapes = [block_shapes(dtype, attention.head_dim) for attention in attentions]
        heads = [(n_blocks, attention.n_kv_heads) for attention in attentions]
        each = list(zip(heads, shapes, strict=True))
        self.k = [memory.zeros((*head, *k_shape), DTYPES[dtype]) for head, (k_shape, _) in each]
        self.v = [memory.zeros((*head, *v_shape), DTYPES[dtype]) for head, (_, v_shape) in each]

    @property
    def n_bytes(self) -> int:
        """Bytes of all blocks; what has not been touched is not resident."""
        return sum(array.nbytes for array in (*self.k, *self.v))

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Clears blocks that may hold a NaN: a later owner multiplies stale cells by zero."""
        for array in (*self.k, *self.v):
            array[list(block_ids)] = 0
