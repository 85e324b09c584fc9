"""From a checkpoint's tensors to weights laid out for the kernels, and what stands side by side.

The layout is the memory's: packed for the CPU, DeviceWeight on the GPU.  Tensors are read one after
the other, in runs of rows, so that only a few megabytes of a file are in memory beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint, Tensor
from pyroclast.checkpoint.read_ahead import ReadAhead
from pyroclast.checkpoint.tensor import converted
from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import AttentionSpec, LayerSpec, NormSpec
from pyroclast_kernels.memory import CountingMemory, Memory, Weight

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """One product: rows [row_offset, row_offset + weight.n_rows) of what a layer multiplies by."""

    weight: Weight
    row_offset: int
    bias: Floats | None = None


@dataclass(frozen=True)
class Norm:
    """A norm's weights, their offset added, and its bias if it has one."""

    weight: Floats
    bias: Floats | None = None


@dataclass(frozen=True)
class Layer:
    """A decoder layer's weights; qkv and gate_up are single products where the formats agree.
    gate_up is w_up alone in a layer without a gate.  None is what the layer does not have."""

    attn_norm: Norm | None
    qkv: tuple[Product, ...]
    qk_norm: tuple[Floats, Floats] | None
    sinks: Floats | None
    wo: tuple[Product, ...]
    attn_norm_after: Norm | None
    ffn_norm: Norm | None
    gate_up: tuple[Product, ...]
    w_down: tuple[Product, ...]
    ffn_norm_after: Norm | None


@dataclass(frozen=True)
class Weights:
    """Everything a forward pass reads; `output` is `token_embd` itself where they are tied."""

    token_embd: Weight
    position_embd: Weight | None
    layers: tuple[Layer, ...]
    output_norm: Norm
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

    def __init__(
        self, checkpoint: Checkpoint, memory: Memory, float32: bool, reader: ReadAhead
    ) -> None:
        self._tensors = checkpoint.tensors
        self._memory, self._float32, self._reader = memory, float32, reader
        self._reads = not isinstance(memory, CountingMemory)

    def vector(self, *names: str, offset: float = 0.0) -> Any:
        """A norm's weights plus its offset, or biases one after the other: float32, contiguous."""
        tensors = [self._tensors[name] for name in names]
        if not self._reads:
            return self._memory.zeros((sum(t.shape[0] for t in tensors),), np.float32)
        values = np.concatenate([tensor.float32() for tensor in tensors], dtype=np.float32)
        return self._memory.constant(values + np.float32(offset) if offset else values)

    def norm(self, name: str, spec: NormSpec) -> Norm:
        """The norm of that name."""
        bias = self.vector(f"{name}_bias") if spec.bias else None
        return Norm(self.vector(name, offset=spec.weight_offset), bias)

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
            stored = converted(tensor, "f32") if self._float32 else tensor
            for first, raw in self._reader.runs(stored):
                self._memory.pack(raw, weight, offset + first)
            offset += tensor.shape[0]
        return weight


def load_weights(
    checkpoint: Checkpoint,
    memory: Memory,
    *,
    float32: bool,
    n_threads: int = 1,
    on_layer: Callable[[int], None] = lambda _: None,
) -> Weights:
    """Lays out every weight, read by up to n_threads threads; on_layer(i) is called when layer i
    is done (a bar's tick)."""
    with ReadAhead(n_threads) as reader:
        return _load(Packer(checkpoint, memory, float32, reader), checkpoint.config, on_layer)


def _load(packer: Packer, config: ModelConfig, on_layer: Callable[[int], None]) -> Weights:

    def matrix(name: str) -> Weight:
        return packer.products([name])[0].weight

    token_embd = matrix("token_embd")
    position_embd = None if config.learned_positions is None else matrix("position_embd")
    layers = []
    for i, spec in enumerate(config.layers):
        layers.append(_load_layer(packer, f"layers.{i}.", spec))
        on_layer(i)
    output = token_embd if config.tie_embeddings else matrix("output")
    output_norm = packer.norm("output_norm", config.output_norm)
    return Weights(token_embd, position_embd, tuple(layers), output_norm, output)


def _load_layer(packer: Packer, prefix: str, spec: LayerSpec) -> Layer:
    """The weights of the layer whose names begin like that."""
    attention, ffn = spec.attention, spec.ffn

    def products(names: Sequence[str], has_bias: bool) -> tuple[Product, ...]:
        biases = [f"{prefix}b{name[1:]}" for name in names] if has_bias else None
        return packer.products([prefix + name for name in names], biases)

    def norm(name: str, is_there: bool) -> Norm | None:
        return packer.norm(prefix + name, spec.norm) if is_there else None

    return Layer(
        attn_norm=norm("attn_norm", spec.norm_before),
        qkv=products(("wq", "wk", "wv"), attention.qkv_bias),
        qk_norm=_load_qk_norm(packer, prefix, attention),
        sinks=packer.vector(prefix + "sinks") if attention.sinks else None,
        wo=products(("wo",), attention.o_bias),
        attn_norm_after=norm("attn_norm_after", spec.norm_after),
        ffn_norm=norm("ffn_norm", spec.norm_before),
        gate_up=products(ffn.inputs, ffn.bias),
        w_down=products(("w_down",), ffn.bias),
        ffn_norm_after=norm("ffn_norm_after", spec.norm_after),
    )


def _load_qk_norm(
    packer: Packer, prefix: str, attention: AttentionSpec
) -> tuple[Floats, Floats] | None:
    if attention.qk_norm is None:
        return None
    offset = attention.qk_norm.weight_offset
    return (
        packer.vector(prefix + "q_norm", offset=offset),
        packer.vector(prefix + "k_norm", offset=offset),
    )
