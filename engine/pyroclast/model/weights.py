"""From a checkpoint's tensors to weights laid out for the kernels, and what stands side by side.

The layout is the memory's: packed for the CPU, DeviceWeight on the GPU.  Tensors are read one after
the other, and a file's pages are let go as soon as they are laid out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint, Tensor
from pyroclast_kernels.memory import CountingMemory, Memory, Weight

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """One product: rows [row_offset, row_offset + weight.n_rows) of what a layer multiplies by."""

    weight: Weight
    row_offset: int
    bias: Floats | None = None


@dataclass(frozen=True)
class Layer:
    """A decoder layer's weights; qkv and gate_up are single products where the formats agree."""

    attn_norm: Floats
    qkv: tuple[Product, ...]
    wo: tuple[Product, ...]
    ffn_norm: Floats
    gate_up: tuple[Product, ...]
    w_down: tuple[Product, ...]


@dataclass(frozen=True)
class Weights:
    """Everything a forward pass reads; `output` is `token_embd` itself where they are tied."""

    token_embd: Weight
    layers: tuple[Layer, ...]
    output_norm: Floats
    output: Weight

    @property
    def step_bytes(self) -> int:
        """Weight bytes that a decode step reads: all but the embedding's."""
        products = (
            product.weight.n_bytes
            for layer in self.layers
            for group in (layer.qkv, layer.wo, layer.gate_up, layer.w_down)
            for product in group
        )
        return sum(products) + self.output.n_bytes


class Packer:
    """Puts tensors into a memory; float32 mode dequantizes them first.  Where the memory only
    counts, nothing is read."""

    def __init__(self, checkpoint: Checkpoint, memory: Memory, float32: bool) -> None:
        self._tensors = checkpoint.tensors
        self._memory, self._float32 = memory, float32
        self._reads = not isinstance(memory, CountingMemory)

    def vector(self, *names: str) -> Any:
        """A norm's weights, or biases one after the other: float32, contiguous."""
        tensors = [self._tensors[name] for name in names]
        if not self._reads:
            return self._memory.zeros((sum(t.shape[0] for t in tensors),), np.float32)
        parts = [np.array(tensor.float32(), dtype=np.float32) for tensor in tensors]
        return self._memory.constant(parts[0] if len(parts) == 1 else np.concatenate(parts))

    def products(self, names: list[str], biases: list[str] | None = None) -> tuple[Product, ...]:
        """The named matrices below one another, neighbours of one format as one product."""
        found: list[Product] = []
        run: list[Tensor] = []
        offset = 0
        for tensor in (self._tensors[name] for name in names):
            if run and self._format(run[0]) != self._format(tensor):
                found.append(Product(self.pack(run), offset))
                offset += sum(t.shape[0] for t in run)
                run = []
            run.append(tensor)
        found.append(Product(self.pack(run), offset))
        if not biases:
            return tuple(found)
        bias = self.vector(*biases)
        return tuple(
            Product(p.weight, p.row_offset, bias[p.row_offset : p.row_offset + p.weight.n_rows])
            for p in found
        )

    def _format(self, tensor: Tensor) -> str:
        return "f32" if self._float32 else tensor.format

    def pack(self, tensors: list[Tensor]) -> Weight:
        """Tensors of one format and width as one weight."""
        n_rows, n_cols = sum(t.shape[0] for t in tensors), tensors[0].shape[1]
        weight: Weight = self._memory.weight(self._format(tensors[0]), n_rows, n_cols)
        offset = 0
        for tensor in tensors if self._reads else ():
            if self._float32 and tensor.format != "f32":
                raw = tensor.float32().view(np.uint8)
            else:
                raw = tensor.rows()
            self._memory.pack(raw, weight, offset)
            del raw
            tensor.release()
            offset += tensor.shape[0]
        return weight


def load_weights(
    checkpoint: Checkpoint,
    memory: Memory,
    *,
    float32: bool,
    on_layer: Callable[[int], None] = lambda _: None,
) -> Weights:
    """Lays out every weight; on_layer(i) is called when layer i is done (a bar's tick)."""
    packer, config = Packer(checkpoint, memory, float32), checkpoint.config
    token_embd = packer.products(["token_embd"])[0].weight
    layers = []
    for i in range(config.n_layers):
        p = f"layers.{i}."
        biases = [p + "bq", p + "bk", p + "bv"] if config.qkv_bias else None
        layers.append(
            Layer(
                attn_norm=packer.vector(p + "attn_norm"),
                qkv=packer.products([p + "wq", p + "wk", p + "wv"], biases),
                wo=packer.products([p + "wo"]),
                ffn_norm=packer.vector(p + "ffn_norm"),
                gate_up=packer.products([p + "w_gate", p + "w_up"]),
                w_down=packer.products([p + "w_down"]),
            )
        )
        on_layer(i)
    tied = "output" not in checkpoint.tensors
    output = token_embd if tied else packer.products(["output"])[0].weight
    return Weights(token_embd, tuple(layers), packer.vector("output_norm"), output)
