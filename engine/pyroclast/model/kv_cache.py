"""The paged key-value cache: storage for every layer, and its size.

Blocks of BLOCK_SIZE positions, handed out by `pyroclast.engine.blocks.BlockPool`, which has no
arrays.
What a block holds in each format is said in pyroclast_kernels.attention.cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyroclast.errors import MemoryBudgetError
from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import AttentionSpec
from pyroclast.model.host_memory import available_bytes, resident_bytes
from pyroclast_kernels import features
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
    "block_bytes",
    "choose_n_blocks",
    "layer_block_bytes",
    "value_stride",
]  # fmt: skip

# Full-length sequences that the cache has room for by default; pages that no sequence has reached
# are never touched, so they cost address space only.
_DEFAULT_SEQUENCES = 8


def automatic_dtype(selection: Selection, quantized: bool) -> str:
    """What kv_dtype "auto" stands for: bf16 where attention has fast dot products of it and the
    weights are quantized, else f16.

    On AMD those are twice as fast as multiply-adds of f16, on Intel slower
    (bench/results/kv_intel.json).  They are no farther from float32 on the demo model (KL
    divergence 0.00287 against 0.00291 nats a token, standard error 0.00005; q8_0 has 0.00332,
    hence is not chosen).  Without 8-bit activations their rounding would show: 0.00015 against
    0.00009 with the same weights in bf16."""
    if not quantized:
        return "f16"
    try:
        variant = selection.variant("attention", "bf16").name
    except KernelError:  # a rule asks for a variant that does not know bf16
        return "f16"
    is_fast = variant == "cpp-avx512vnni" and features.has_fast_bf16_dot()
    return "bf16" if is_fast else "f16"


def block_bytes(config: ModelConfig, dtype: str) -> int:
    """Bytes of one block over all layers, keys and values."""
    return sum(layer_block_bytes(each, dtype) for each in config.caches.values())


def layer_block_bytes(attention: AttentionSpec, dtype: str) -> int:
    """Bytes of one block in one layer."""
    cells = sum(math.prod(shape) for shape in block_shapes(dtype, attention.head_dim))
    return attention.n_kv_heads * cells * np.dtype(DTYPES[dtype]).itemsize


def choose_n_blocks(
    config: ModelConfig, dtype: str, n_blocks: int | None, others: Mapping[str, int]
) -> int:
    """The number of blocks: as asked for, or room for several full-length sequences within half
    of the memory that the `others` (name -> bytes: weights, adapters) leave.  MemoryBudgetError if
    others and blocks do not fit, or not even one block."""
    n_bytes = sum(others.values())
    size, available = block_bytes(config, dtype), available_bytes()
    least = 1 if n_blocks is None else n_blocks
    if n_bytes + least * size > available:
        parts = ", ".join(f"the {name} need {n >> 20} MiB" for name, n in others.items())
        raise MemoryBudgetError(
            f"{parts} and {least} cache blocks "
            f"{-(-least * size >> 20)} MiB, but {available >> 20} MiB are available; a smaller "
            "format (model@q4_0) or kv_dtype, or fewer n_blocks take less"
        )
    if n_blocks is not None:
        return n_blocks
    wanted = _DEFAULT_SEQUENCES * -(-config.max_seq_len // BLOCK_SIZE)
    return min(wanted, max(1, (available - n_bytes) // 2 // size))


class KVCache:
    """k and v: per layer that keeps its own (n_blocks, n_kv_heads, ...) as block_shapes says; zero
    until written."""

    def __init__(self, config: ModelConfig, dtype: str, n_blocks: int, memory: Memory) -> None:
        self.dtype, self.n_blocks = dtype, n_blocks
        caches = config.caches
        places = {layer: i for i, layer in enumerate(caches)}
        self._place = {
            layer: places[layer if attention.cache_layer is None else attention.cache_layer]
            for layer, attention in config.attentions.items()
        }
        shapes = [block_shapes(dtype, attention.head_dim) for attention in caches.values()]
        heads = [(n_blocks, attention.n_kv_heads) for attention in caches.values()]
        each = list(zip(heads, shapes, strict=True))
        self.k = [memory.zeros((*head, *k_shape), DTYPES[dtype]) for head, (k_shape, _) in each]
        self.v = [memory.zeros((*head, *v_shape), DTYPES[dtype]) for head, (_, v_shape) in each]

    def only(self, layer: int) -> KVCache:
        """The same arrays as the cache of a model whose single layer that one is."""
        k, v = self.of_layer(layer)
        found = object.__new__(KVCache)
        found.dtype, found.n_blocks = self.dtype, self.n_blocks
        found.k, found.v, found._place = [k], [v], {0: 0}
        return found

    def of_layer(self, layer: int) -> tuple[Any, Any]:
        """The keys and values that a layer with attention reads."""
        place = self._place[layer]
        return self.k[place], self.v[place]

    @property
    def n_bytes(self) -> int:
        """Bytes of all blocks; what has not been touched is not resident."""
        return sum(array.nbytes for array in (*self.k, *self.v))

    @property
    def unfilled_bytes(self) -> int:
        """Bytes of the blocks in host memory that are not resident yet."""
        return self.n_bytes - sum(resident_bytes(array) for array in (*self.k, *self.v))

    def block_arrays(self, block: int) -> list[Any]:
        """What a block holds: its keys and values in each layer, as views of one piece each."""
        return [array[block] for pair in zip(self.k, self.v, strict=True) for array in pair]

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Clears blocks that may hold a NaN: a later owner multiplies stale cells by zero."""
        for array in (*self.k, *self.v):
            array[list(block_ids)] = 0
