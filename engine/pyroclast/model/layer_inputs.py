"""The weights of per-layer embeddings: a table that is read one row a token, and products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import NormSpec
from pyroclast.model.packer import Norm, Product
from pyroclast_kernels.memory import Weight


@dataclass(frozen=True)
class InputWeights:
    """What all layers share: the table, as `embed` reads it, the product that the embedding goes
    through, and the norm of each layer's share of it."""

    table: Weight
    projection: tuple[Product, ...]
    norm: Norm


@dataclass(frozen=True)
class LayerInputWeights:
    """A layer's: the product that gates its input, the last one, and the norm after it."""

    gate: tuple[Product, ...]
    last: tuple[Product, ...]
    norm_after: Norm


class Reader(Protocol):
    """What `packer.Packer` does with products and norms."""

    def products(
        self, names: list[str], biases: list[str] | None = None
    ) -> tuple[Product, ...]: ...
    def norm(self, name: str, spec: NormSpec) -> Norm: ...


def load_inputs(reader: Reader, config: ModelConfig) -> InputWeights | None:
    """What all layers share; None where they are told nothing."""
    if config.layer_input is None:
        return None
    return InputWeights(
        reader.products(["layer_embd"])[0].weight,
        reader.products(["w_layer_inputs"]),
        reader.norm("layer_input_norm", config.output_norm),
    )


def load_layer_input(reader: Reader, prefix: str, norm: NormSpec) -> LayerInputWeights:
    """Those of the layer whose names begin like that."""
    return LayerInputWeights(
        reader.products([prefix + "w_input_gate"]),
        reader.products([prefix + "w_input"]),
        reader.norm(prefix + "input_norm_after", norm),
    )
