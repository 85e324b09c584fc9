"""The buffers of a step, shared by all layers.  Unused rows of a buffer are never touched, so a
large step size costs address space only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.model.kv_cache import value_stride
from pyroclast.model.weights import Product, Weights
from pyroclast_kernels.activations import BLOCK, Q8_BLOCK
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory, Weight

Array = NDArray[Any]

# Steps of at most this many tokens share one token's positions among threads; larger ones have
# enough tokens to go round.
MAX_SPLIT_TOKENS = 16


class Activations:
    """One intermediate result of a step, in the forms that its readers take: float32 values,
    8-bit blocks, or both.  On the GPU bfloat16 values (uint16 here) where bf16 weights are all that
    reads them: its kernels would round them to that anyway."""

    def __init__(self, max_tokens: int, n: int, readers: Sequence[Weight], memory: Memory) -> None:
        plain = {weight.format for weight in readers if not weight.takes_q8}
        dtype = np.uint16 if memory.on_gpu and plain == {"bf16"} else np.float32
        quantized = any(weight.takes_q8 for weight in readers)
        self.values: Array | None = memory.zeros((max_tokens, n), dtype) if plain else None
        self.q8: Array | None = None
        if quantized:
            self.q8 = memory.zeros((max_tokens, n // BLOCK), Q8_BLOCK)

    def of(self, weight: Weight) -> Array:
        """What a product with `weight` reads."""
        x = self.q8 if weight.takes_q8 else self.values
        assert x is not None
        return x


def _weights_of(products: Sequence[Product]) -> list[Weight]:
    return [product.weight for product in products]


class Workspace:
    """Every buffer of a step.  Which forms an intermediate result takes is decided by the weights
    that read it."""

    def __init__(
        self, config: ModelConfig, weights: Weights, batch: Batch, max_splits: int, memory: Memory
    ) -> None:
        n, layers, zeros = batch.max_batch_tokens, weights.layers, memory.zeros
        q_dim = config.n_heads * config.head_dim
        kv_dim = config.n_kv_heads * config.head_dim
        stride = value_stride(config.head_dim)

        def for_readers(size: int, group: str, rows: int = n) -> Activations:
            readers = [w for layer in layers for w in _weights_of(getattr(layer, group))]
            return Activations(rows, size, readers, memory)

        self.x = zeros((n, config.d_model), np.float32)
        self.rope_table = zeros((n, 2, config.head_dim // 2), np.float32)
        self.qkv = zeros((n, q_dim + 2 * kv_dim), np.float32)
        self.gate_up = zeros((n, 2 * config.d_ff), np.float32)
        self.attn_in = for_readers(config.d_model, "qkv")
        self.attn_out = for_readers(q_dim, "wo")
        # Attention quantizes head by head; where a block spans two heads, an op of its own does it.
        self.quantizes_attention = self.attn_out.q8 is not None and config.head_dim % BLOCK != 0
        if self.quantizes_attention:
            self.attn_out.values = zeros((n, q_dim), np.float32)
        self.ffn_in = for_readers(config.d_model, "gate_up")
        self.ffn_out = for_readers(config.d_ff, "w_down")
        self.head_in = Activations(batch.max_logits, config.d_model, [weights.output], memory)
        # The GPU's kernels share out positions in scratch memory of their own.
        self.max_split_tokens = 1 if memory.on_gpu else MAX_SPLIT_TOKENS
        cells = self.max_split_tokens * config.n_heads
        self.scratch = zeros((cells, max_splits, stride + 2), np.float32)
        self.counters = zeros((cells,), np.int32)
        self.logits = zeros((batch.max_logits, config.vocab_size), np.float32)
