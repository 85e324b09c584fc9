"""From a checkpoint's tensors to weights packed for the kernels, and what stands side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint import Checkpoint, Tensor
from pyroclast_kernels.matmul.packing import PackedWeight
from pyroclast_kernels.program import Program, Recorder
from pyroclast_kernels.registry import Selection

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """One product: rows [row_offset, row_offset + weight.n_rows) of what a layer multiplies by."""

    weight: PackedWeight
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

    token_embd: PackedWeight
    layers: tuple[Layer, ...]
    output_norm: Floats
    output: PackedWeight

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
    """Packs tensors on the executor's threads; float32 mode dequantizes them first."""

    def __init__(
        self, checkpoint: Checkpoint, selection: Selection, executor: Any, float32: bool
    ) -> None:
        self._tensors = checkpoint.tensors
        self._selection, self._executor, self._float32 = selection, executor, float32

    def vector(self, name: str) -> Floats:
        """A norm's weights or a bias, float32, contiguous."""
        return np.array(self._tensors[name].float32(), dtype=np.float32)

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
        bias = np.concatenate([self.vector(name) for name in biases])
        return tuple(
            Product(p.weight, p.row_offset, bias[p.row_offset : p.row_offset + p.weight.n_rows])
            for p in found
        )

    def _format(self, tensor: Tensor) -> str:
        return "f32" if self._float32 else tensor.format

    def pack(self, tensors: list[Tensor]) -> PackedWeight:
        """Tensors of one format and width as one packed weight."""
        n_rows, n_cols = sum(t.shape[0] for t in tensors), tensors[0].shape[1]
        weight = PackedWeight.empty(self._format(tensors[0]), n_rows, n_cols)
        offset = 0
        for tensor in tensors:
            if self._float32 and tensor.format != "f32":
                raw = tensor.float32().view(np.uint8)
            else:
                raw = tensor.rows()
            recorder = Recorder(self._selection)
            recorder.call(
                "pack",
                weight.format,
                raw=raw,
                weight=weight,
                n_rows=len(raw),
                n_cols=n_cols,
                row_offset=offset,
            )
            Program(recorder.calls, self._executor).run()
            del recorder, raw
            tensor.release()
            offset += tensor.shape[0]
        return weight


def load_weights(
    checkpoint: Checkpoint,
    selection: Selection,
    executor: Any,
    *,
    float32: bool,
    on_layer: Callable[[int], None] = lambda _: None,
) -> Weights:
    """Packs every weight; on_layer(i) is called when layer i is done (a progress bar's tick)."""
    packer, config = Packer(checkpoint, selection, executor, float32), checkpoint.config
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
