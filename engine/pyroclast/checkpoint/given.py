"""Weights that a caller hands over as arrays, matched to a loaded model as a file's tensors are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.convert.keys import written_family
from pyroclast.checkpoint.drafting import folded
from pyroclast.checkpoint.folder_tensors import squeezed
from pyroclast.checkpoint.match import (
    Naming,
    StoredTensor,
    filled,
    flattened,
    pairs_apart,
    unread_names,
)
from pyroclast.checkpoint.parts import part_tensor, seek_part
from pyroclast.checkpoint.tensor import Tensor
from pyroclast.errors import ModelFileError, RequestError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import IGNORED_TENSOR_SUFFIXES, Family
from pyroclast.families.hf_names import table_names
from pyroclast.families.recurrent import GatedDeltaSpec, Mamba2Spec
from pyroclast.families.registry import FAMILIES
from pyroclast.families.tensors import name_in_file, template_of, tensor_shapes
from pyroclast.files.model_file import ModelFile

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class GivenWeights:
    """tensors by canonical name.  norm_offset: what stands to be added to the weights of norms, as
    the family's folders store them."""

    tensors: Mapping[str, Tensor]
    norm_offset: float

    def offset_of(self, name: str) -> float:
        """What has to be added to the values of that weight."""
        last = name.rpartition(".")[2]
        has_offset = "norm" in last and last != "delta_norm" and not last.endswith("bias")
        return self.norm_offset if has_offset else 0.0


class _InMemory(ModelFile):
    """Bytes of an array in place of a file."""

    def __init__(self, values: Floats) -> None:
        self.path = "the given tensors"
        self._bytes = values.reshape(-1).view(np.uint8)
        self.size = len(self._bytes)

    def read_into(self, out: Any, offset: int, what: str) -> None:
        """Copies bytes from offset on."""
        del what
        rest = np.frombuffer(memoryview(out).cast("B"), np.uint8)
        rest[:] = self._bytes[offset : offset + len(rest)]

    def close(self) -> None:
        """Nothing is open."""


def stored(name: str, value: Any) -> StoredTensor:
    """An array or a tensor as a file would describe it, in float32; RequestError, with its name,
    unless its values are finite floating-point numbers."""
    values = _floats(name, value)
    if not np.isfinite(values).all():
        raise RequestError(f"tensor {name!r} holds a NaN or an infinity; no weight was changed")
    return StoredTensor(name, values.shape, "F32", "f32", _InMemory(values), 0)


def _floats(name: str, value: Any) -> Floats:
    if hasattr(value, "detach"):  # a tensor of torch, whose bfloat16 NumPy does not know
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.float()
        value = value.numpy()
    array = np.asarray(value)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise RequestError(
            f"tensor {name!r} must hold floating-point numbers, got {array.dtype}; quantized "
            "models take float values and quantize them"
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes an infinity, which is told
        return np.ascontiguousarray(array, np.float32)


def match_given(config: ModelConfig, arrays: Any) -> GivenWeights:
    """Finds the weights of a model of that config that these tensors hold, by Hugging Face's names
    or by GGUF's.  RequestError, with the tensor's name, for one that has no place or whose shape
    or values do not fit."""
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise RequestError(
            'tensors must be {"name": array, ...}, such as a state_dict(), got '
            f"{type(arrays).__name__}"
        )
    if not arrays:
        raise RequestError("tensors is empty: give at least one weight to change")
    family = FAMILIES[config.family]
    gguf = Naming.of_gguf(written_family(family))
    is_gguf = not known_names(config, gguf).isdisjoint(arrays)
    _check_decay(config, is_gguf=is_gguf)
    if is_gguf:
        return GivenWeights(_match(config, gguf, {name: name for name in arrays}, arrays), 0.0)
    arrays = _without_tied(config, family, arrays)
    draft_layer = None if config.draft_layer is None else config.n_layers
    tables = table_names(family, arrays, draft_layer)
    tensors = _match(config, Naming.of_folder(family), tables, arrays)
    return GivenWeights(tensors, float(family.hf_defaults.get("norm_offset", 0.0)))


def _check_decay(config: ModelConfig, *, is_gguf: bool) -> None:
    """RequestError for layers with decays by the names of the other kind of file: a folder has the
    logarithm of a decay, a GGUF file the decay."""
    for layer in config.layers:
        mixer = layer.recurrent
        if isinstance(mixer, GatedDeltaSpec | Mamba2Spec) and mixer.log_decay == is_gguf:
            wanted = "a GGUF file" if not is_gguf else "a Hugging Face folder"
            raise RequestError(
                f"this {config.family} model was loaded from {wanted}, which stores recurrent "
                "layers in another way than the given names do; give tensors as it has them"
            )


def known_names(config: ModelConfig, naming: Naming) -> set[str]:
    """What files of that naming call the weights of a model of that config."""
    found: set[str] = set()
    for name, shape in tensor_shapes(config).items():
        template, layer = template_of(name)
        if template in naming.names:
            own = name_in_file(naming.names, name)
            found |= {own.format(e=i) for i in range(shape[0])} if "{e}" in own else {own}
        found |= {
            key.format(i=layer)
            for key, weights in naming.fused.items()
            if template.rpartition(".")[2] in weights
        }
    return found


def _without_tied(
    config: ModelConfig, family: Family, arrays: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Without the output head where it is the embedding, which state_dict() has twice."""
    head = family.hf_tensors["output"]
    if not config.tie_embeddings or head not in arrays:
        return arrays
    others = {name: value for name, value in arrays.items() if name != head}
    for name, table in table_names(family, others).items():
        if table == family.hf_tensors["token_embd"]:
            if not np.array_equal(_floats(head, arrays[head]), _floats(name, arrays[name])):
                raise RequestError(
                    f"tensor {head!r} differs from {name!r}, but this model's output head is its "
                    "embedding; leave one of them out"
                )
            return others
    return others | {family.hf_tensors["token_embd"]: arrays[head]}


def _match(
    config: ModelConfig, naming: Naming, tables: Mapping[str, str], arrays: Mapping[str, Any]
) -> dict[str, Tensor]:
    """tables: given name -> the naming's.  Vision parts are in none, and are ignored."""
    wanted = {
        table: stored(name, arrays[name])
        for name, table in tables.items()
        if not table.endswith(IGNORED_TENSOR_SUFFIXES)
    }
    family, shapes = FAMILIES[config.family], tensor_shapes(config)
    wanted = flattened(squeezed(wanted, family), family)
    wanted = filled(wanted, config, naming, any_number=config.streams is not None)
    found: dict[str, Tensor] = {}
    used = unread_names(config, naming)
    try:
        wanted = folded(wanted, family)
        for name in shapes:
            part, _ = seek_part(naming, wanted, shapes, name)
            if part is None:
                continue
            template, layer = template_of(name)
            weight, order = template.rpartition(".")[2], None
            if weight in naming.paired and layer is not None:
                order = pairs_apart(config.layers[layer].attention, weight)
            parts = [wanted[key] for key in part.keys]
            is_transposed = weight in naming.transposed
            found[name] = part_tensor(name, part, parts, order=order, is_transposed=is_transposed)
            used.update(part.keys)
    except ModelFileError as error:
        raise RequestError(f"{error}; no weight was changed") from error
    _check_used(config, naming, [wanted[key].name for key in wanted if key not in used])
    return found


def _check_used(config: ModelConfig, naming: Naming, unused: Iterable[str]) -> None:
    unknown = list(unused)
    if unknown:
        examples = sorted(known_names(config, naming))[:3]
        raise RequestError(
            f"tensor {unknown[0]!r} has no place in this {config.family} model of "
            f"{config.n_layers} layers; its weights are called {', '.join(map(repr, examples))}, "
            "...; no weight was changed"
        )
