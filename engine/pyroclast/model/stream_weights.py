"""The weights of residual streams beside the usual one: products for a model, coefficients for a
layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import NormSpec, StreamsSpec
from pyroclast.model.packer import Norm, Product

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class StreamWeights:
    """For each stream but the first: the product that begins it, and the one that ends it."""

    first: tuple[tuple[Product, ...], ...]
    last: tuple[tuple[Product, ...], ...]


@dataclass(frozen=True)
class LayerStreams:
    """A layer's: the arguments of `altup_predict` and `altup_correct`."""

    norm: Norm
    router: Floats
    predict: Floats
    correct: Floats
    scale: Floats | None


class Reader(Protocol):
    """What `packer.Packer` does with products, norms and arrays."""

    def products(
        self, names: list[str], biases: list[str] | None = None
    ) -> tuple[Product, ...]: ...
    def norm(self, name: str, spec: NormSpec) -> Norm: ...
    def vector(self, *names: str, offset: float = 0.0) -> Any: ...
    def array(self, name: str, change: Callable[[Floats], Floats]) -> Any: ...


def load_streams(reader: Reader, config: ModelConfig) -> StreamWeights | None:
    """Those of the model; None where it has one stream."""
    if config.streams is None:
        return None
    first, last = (
        tuple(reader.products([f"w_stream_{way}_{j}"]) for j in config.streams.others)
        for way in ("in", "out")
    )
    return StreamWeights(first, last)


def load_layer_streams(
    reader: Reader, prefix: str, norm: NormSpec, streams: StreamsSpec | None
) -> LayerStreams | None:
    """Those of the layer whose names begin like that."""
    if streams is None:
        return None
    return LayerStreams(
        reader.norm(prefix + "altup_router_norm", norm),
        reader.array(prefix + "altup_router", np.asarray),
        reader.array(prefix + "altup_predict", np.asarray),
        reader.array(prefix + "altup_correct", np.asarray),
        reader.vector(prefix + "altup_scale") if streams.scales else None,
    )
