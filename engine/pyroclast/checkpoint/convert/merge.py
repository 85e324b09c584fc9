"""An adapter merged into what a conversion reads: W + scale * B @ A, in float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.adapter.open import Products, open_adapter
from pyroclast.checkpoint.convert.keys import written_family
from pyroclast.checkpoint.convert.source import Source, SourceTensor
from pyroclast.checkpoint.match import pairs_apart
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.checkpoint.parts import Naming, Part, seek_part
from pyroclast.checkpoint.scales import scale_key
from pyroclast.errors import UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.registry import FAMILIES
from pyroclast.families.tensors import template_of, tensor_shapes

Floats = npt.NDArray[np.float32]
Delta = Callable[[int, int], Floats]


def merge_adapter(source: Source, model: Path, adapter: str) -> Source:
    """The source of `model` with the adapter's products added to its tensors."""
    with open_checkpoint(model) as checkpoint:
        config = checkpoint.config
    with closing(open_adapter(adapter, config)) as opened:
        products = opened.read()
    deltas = _deltas(config, products, [tensor.name for tensor in source.tensors])
    _check_unscaled(source, deltas)
    tensors = [_changed(tensor, deltas.get(tensor.name)) for tensor in source.tensors]
    return replace(source, tensors=tensors)


def _changed(tensor: SourceTensor, delta: Delta | None) -> SourceTensor:
    return tensor if delta is None else replace(tensor, delta=delta)


def _check_unscaled(source: Source, deltas: dict[str, Delta]) -> None:
    names = {tensor.name for tensor in source.tensors}
    for name in deltas:
        if scale_key(name) in names:
            raise UnsupportedModelError(
                f"tensor {name!r} is multiplied by {scale_key(name)!r}, so nothing can be added to "
                "it; merge the adapter into the model that the file was made of"
            )


def _deltas(config: ModelConfig, products: Products, names: list[str]) -> dict[str, Delta]:
    """Name of a tensor in a GGUF file -> what is added to its rows [first, last), in its order."""
    naming = Naming.of_gguf(written_family(FAMILIES[config.family]))
    shapes = tensor_shapes(config)
    pieces: dict[str, list[tuple[Part, Floats, Floats]]] = {}
    for name, (a, b) in products.items():
        part, _ = seek_part(naming, names, shapes, name)
        assert part is not None, "the model has every weight, and the adapter changes no other"
        in_order = _in_file_order(config, naming, name, b)
        pieces.setdefault(part.keys[0], []).append((part, a, in_order))
    return {key: _delta(each) for key, each in pieces.items()}


def _in_file_order(config: ModelConfig, naming: Naming, name: str, b: Floats) -> Floats:
    """The rows of B as the file orders those of the weight: the inverse of what reading does."""
    template, layer = template_of(name)
    weight = template.rpartition(".")[2]
    if weight not in naming.paired or layer is None:
        return b
    return b[np.argsort(pairs_apart(config.layers[layer].attention, weight))]


def _delta(pieces: list[tuple[Part, Floats, Floats]]) -> Delta:
    """Of the products whose rows a tensor holds one below the other; others' rows are 0."""

    def delta(first: int, last: int) -> Floats:
        out = np.zeros((last - first, pieces[0][0].shape[1]), np.float32)
        for part, a, b in pieces:
            begin = max(first, part.first_row)
            end = min(last, part.first_row + len(b))
            if begin < end:
                out[begin - first : end - first] = (
                    b[begin - part.first_row : end - part.first_row] @ a
                )
        return out

    return delta
