"""From a checkpoint's tensors to weights laid out for the kernels, and what stands side by side.

The layout is the memory's: packed for the CPU, DeviceWeight on the GPU.  Tensors are read one after
the other, and a file's pages are let go as soon as they are laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint, Tensor
from pyroclast.families.layer_spec import LayerSpec
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

    def vector(self, *names: str, offset: float = 0.0) -> Any:
        """A norm's weights plus its offset, or biases one after the other: float32, contiguous."""
        tensors = [self._tensors[name] for name in names]
        if not self._reads:
            return self._memory.zeros((sum(t.shape[0] for t in tensors),), np.float32)
        values = np.concatenate([tensor.float32() for tensor in tensors], dtype=np.float32)
        return self._memory.constant(values + np.float32(offset) if offset else values)

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
    for i, spec in enumerate(config.layers):
        layers.append(_load_layer(packer, f"layers.{i}.", spec))
        on_layer(i)
    output = token_embd if config.tie_embeddings else packer.products(["output"])[0].weight
    output_norm = packer.vector("output_norm", offset=config.output_norm.weight_offset)
    return Weights(token_embd, tuple(layers), output_norm, output)


def _load_layer(packer: Packer, prefix: str, spec: LayerSpec) -> Layer:
    """The weights of the layer whose names begin like that."""

    def products(*names: str, biases: Sequence[str] = ()) -> tuple[Product, ...]:
        return packer.products([prefix + name for name in names], [prefix + b for b in biases])

    offset = spec.norm.weight_offset
    return Layer(
        attn_norm=packer.vector(prefix + "attn_norm", offset=offset),
        qkv=products(
            "wq", "wk", "wv", biases=("bq", "bk", "bv") if spec.attention.qkv_bias else ()
        ),
        wo=products("wo", biases=("bo",) if spec.attention.o_bias else ()),
        ffn_norm=packer.vector(prefix + "ffn_norm", offset=offset),
        gate_up=products("w_gate", "w_up", biases=("b_gate", "b_up") if spec.ffn.bias else ()),
        w_down=products("w_down", biases=("b_down",) if spec.ffn.bias else ()),
    )
