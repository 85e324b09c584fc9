"""Which product of the base model each pair of matrices of an adapter changes, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.match import pairs_apart, unread_names
from pyroclast.checkpoint.parts import Naming, Part, StoredTensor, part_tensor, seek_part
from pyroclast.checkpoint.tensor import Tensor
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.tensors import name_in_file, template_of, tensor_shapes

Floats = npt.NDArray[np.float32]

# The weights of a layer that adapters can change; those of experts and their router are others.
PRODUCTS = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")
# A slot takes its rank in every layer of the model; published adapters have 4 to 256.
MAX_RANK = 1024


@dataclass(frozen=True)
class StoredPair:
    """What a file adds to one tensor of the base, scale * B @ A: A (rank, n_cols) and B (n_rows,
    rank) as the file describes them."""

    a: StoredTensor
    b: StoredTensor
    scale: float


@dataclass(frozen=True)
class Pair:
    """The same for one weight of ours: B has the rows of that weight alone, in our order."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def read(self) -> tuple[Floats, Floats]:
        """A and scale * B; ModelFileError for a value that is not finite."""
        a, b = self.a.float32(), self.b.float32()
        for tensor, values in ((self.a, a), (self.b, b)):
            if not np.isfinite(values).all():
                raise ModelFileError(f"tensor {tensor.source_name!r} holds a NaN or an infinity")
        with np.errstate(over="ignore"):
            scaled = b * np.float32(self.scale)
        if not np.isfinite(scaled).all():
            raise ModelFileError(
                f"tensor {self.b.source_name!r} times the scale {self.scale:g} exceeds float32"
            )
        return a, scaled


def product_keys(config: ModelConfig, naming: Naming) -> Iterator[tuple[str, int]]:
    """(name, layer) of every tensor that holds products of a layer, as files call them."""
    for name in _products(config):
        template, layer = template_of(name)
        assert layer is not None
        if template in naming.names:
            yield name_in_file(naming.names, name), layer
        for key, weights in naming.fused.items():
            if template not in naming.names and template.rpartition(".")[2] == weights[0]:
                yield key.format(i=layer), layer


def _products(config: ModelConfig) -> Iterator[str]:
    """The canonical names of a model's products that an adapter can change, layer by layer."""
    for name in tensor_shapes(config):
        if name.startswith("layers.") and name.rpartition(".")[2] in PRODUCTS:
            yield name


def match_pairs(
    config: ModelConfig, naming: Naming, stored: Mapping[str, StoredPair]
) -> dict[str, Pair]:
    """Canonical name ("layers.0.wq") -> its pair, for every product that the adapter changes.
    stored: the base's tensor, as files of that naming call it -> what is added to it.
    ModelFileError for shapes of another base, and for a rank above MAX_RANK; UnsupportedModelError
    for what is no product of a layer."""
    shapes = tensor_shapes(config)
    pairs: dict[str, Pair] = {}
    used = unread_names(config, naming)  # nothing reads these, so they change nothing
    for name in _products(config):
        part, _ = seek_part(naming, stored, shapes, name)
        if part is None:
            continue
        pair = stored[part.keys[0]]
        if name.rpartition(".")[2] in naming.by_head:
            raise UnsupportedModelError(
                f"the adapter changes {part.keys[0]!r}, which holds queries and the gates of "
                "attention, which adapters cannot change; train one for k_proj, v_proj, o_proj "
                "and the feed-forward"
            )
        _check_shapes(pair, part)
        pairs[name] = _pair(config, naming, name, part, pair)
        used.add(part.keys[0])
    for key in stored:
        if key not in used:
            ends = {part.split(".")[-2] for part, _ in product_keys(config, naming)}
            known = ", ".join(sorted(ends))
            raise UnsupportedModelError(
                f"the adapter changes {key!r}, which is no product of a layer of the base model "
                f"({config.family}, {config.n_layers} layers); these can be changed: {known}"
            )
    if not pairs:
        raise ModelFileError("the adapter changes no weight")
    return pairs


def _check_shapes(pair: StoredPair, part: Part) -> None:
    """ModelFileError, with both shapes, unless A and B fit the base's tensor and each other."""
    n_rows, n_cols = part.n_rows, part.shape[1]
    a, b = pair.a, pair.b
    rank = a.shape[0] if len(a.shape) == 2 else 0
    if a.shape != (rank, n_cols) or b.shape != (n_rows, rank):
        raise ModelFileError(
            f"the adapter is for another base: {a.name!r} has shape {a.shape} and {b.name!r} "
            f"{b.shape}; the base's {part.keys[0]!r} is {(n_rows, n_cols)}, which takes (rank, "
            f"{n_cols}) and ({n_rows}, rank)"
        )
    if not 1 <= rank <= MAX_RANK:
        raise ModelFileError(f"tensor {a.name!r} has rank {rank}; allowed: 1 to {MAX_RANK}")


def _pair(config: ModelConfig, naming: Naming, name: str, part: Part, pair: StoredPair) -> Pair:
    template, layer = template_of(name)
    weight, order = template.rpartition(".")[2], None
    if weight in naming.paired and layer is not None:
        order = pairs_apart(config.layers[layer].attention, weight)
    rank, n_cols = pair.a.shape
    of_a = Part(part.keys, (rank, n_cols), 0, rank)
    of_b = replace(part, shape=(part.shape[0], rank))
    return Pair(
        part_tensor(name, of_a, [pair.a], order=None, is_transposed=False),
        part_tensor(name, of_b, [pair.b], order=order, is_transposed=False),
        pair.scale,
    )
