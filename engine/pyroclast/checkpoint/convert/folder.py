"""A Hugging Face folder as a source: keys, vocabulary, and tensors as GGUF files order them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from pyroclast.checkpoint.convert.keys import (
    check_same,
    keys_and_vectors,
    norm_of,
    notes_of,
    read_back,
    written_family,
)
from pyroclast.checkpoint.convert.source import Bytes, Source, SourceTensor
from pyroclast.checkpoint.convert.states import (
    Order,
    column_order,
    is_state,
    row_order,
    state_tensor,
    with_columns,
)
from pyroclast.checkpoint.convert.unread import unread_tensors
from pyroclast.checkpoint.convert.vocabulary import vocabulary_keys
from pyroclast.checkpoint.match import pairs_apart
from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.checkpoint.stacks import AlternatingRows
from pyroclast.checkpoint.tensor import Scratch, Tensor
from pyroclast.errors import UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.draft_head import PRODUCTS
from pyroclast.families.family import Family
from pyroclast.families.layer_spec import LayerSpec
from pyroclast.families.registry import FAMILIES
from pyroclast.families.tensors import template_of
from pyroclast.files.gguf_writer import Value
from pyroclast_kernels.weights import formats


def folder_source(path: Path) -> Source:
    """The folder's model; refused if GGUF cannot say what it is, or how it reads text."""
    files = ExitStack()
    checkpoint = open_checkpoint(path, draft_head=None)
    files.callback(checkpoint.close)
    try:
        h, config = checkpoint.hyperparameters, checkpoint.config
        family = written_family(FAMILIES[h.family])
        keys, vectors = keys_and_vectors(h, config)
        groups = list(_groups(checkpoint, family))
        found = read_back(keys, frozenset(name for name, _ in groups) | set(vectors), vectors)
        check_same(config, found, str(family.gguf_architecture))
        keys["general.name"] = Value("str", checkpoint.name)
        vocabulary, notes = vocabulary_keys(path, h)
        keys |= vocabulary
        tensors = [
            SourceTensor(name, each.shape, "f32", partial(_rows, each))
            for name, each in vectors.items()
        ]
        tensors += [_tensor(name, parts, config, found, family) for name, parts in groups]
        tensors += unread_tensors(path, h, config, family, files)
    except BaseException:
        files.close()
        raise
    metadata = {key: each.to_bytes() for key, each in keys.items()}
    notes += notes_of(config, str(family.gguf_architecture), {each.name for each in tensors})
    return Source(metadata, tensors, files, tuple(notes))


def _rows(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], first: int, last: int
) -> Bytes:
    return values.view(np.uint8).reshape(1, -1)[first:last]


def _groups(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[str, list[Tensor]]]:
    """(name in the file, the weights whose rows it holds)."""
    config, tensors = checkpoint.config, checkpoint.tensors
    fused: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for file_name, weights in family.gguf_fused.items():
        for weight in weights:
            template = f"layers.{{i}}.{weight}" if "{i}" in file_name else weight
            fused.setdefault(template, []).append((file_name, weights))
    for name, tensor in tensors.items():
        template, layer = template_of(name)
        if template in family.gguf_tensors:
            yield family.gguf_tensors[template].format(i=layer), [tensor]
            continue
        # Where there are two names, the second is for layers that have experts as well.
        has_experts = layer is not None and config.all_layers[layer].experts is not None
        file_name, weights = fused[template][-1 if has_experts else 0]
        prefix, _, weight = name.rpartition(".")
        if weight == weights[0]:
            names = (f"{prefix}.{each}".lstrip(".") for each in weights)
            yield file_name.format(i=layer), [tensors[each] for each in names if each in tensors]


def _tensor(
    name: str, parts: list[Tensor], config: ModelConfig, found: ModelConfig, family: Family
) -> SourceTensor:
    first = parts[0]
    if any(part.format != first.format for part in parts):
        raise UnsupportedModelError(
            f"{first.source_name!r} and its neighbours have different types and are one tensor, "
            f"{name!r}, in a GGUF file; store them in one type"
        )
    template, layer = template_of(first.name)
    weight = template.rpartition(".")[2]
    mixers = [None if layer is None else c.all_layers[layer].recurrent for c in (config, found)]
    if mixers[0] is not None and mixers[1] is not None and is_state(weight):
        return state_tensor(name, first, weight, mixers[0], mixers[1])
    order, columns = row_order(weight, *mixers), column_order(weight, *mixers)
    if weight in family.gguf_paired and layer is not None:
        # The inverse of what reading does.
        order = np.argsort(pairs_apart(config.layers[layer].attention, weight))
    norm, norm_found = (norm_of(each, layer, weight) for each in (config, found))
    added = 0.0
    if norm is not None and norm_found is not None:
        added = norm.weight_offset - norm_found.weight_offset
    source = _joined(parts, None if layer is None else config.all_layers[layer], family)
    is_vector = len(first.shape) == 1
    return SourceTensor(
        name,
        _shape(parts, is_stack=layer is None and name in family.gguf_fused),
        first.format,
        _vector(parts, order) if is_vector else _matrix(source, order, columns, first),
        at_once=any(part.source.at_once for part in parts),
        added=added,
    )


def _vector(parts: list[Tensor], order: Order | None) -> Callable[[int, int], Bytes]:
    """Vectors as one, its values in that order."""

    def rows(begin: int, end: int) -> Bytes:
        joined = np.concatenate([part.rows() for part in parts], axis=1)
        if order is not None:  # a vector's rows are its values
            joined = joined.reshape(len(order), -1)[order].reshape(1, -1)
        return joined[begin:end]

    return rows


def _matrix(
    source: Callable[[int, int], Bytes],
    order: Order | None,
    columns: Order | None,
    tensor: Tensor,
) -> Callable[[int, int], Bytes]:
    """The tensor's rows, and its columns, in these orders."""

    def rows(begin: int, end: int) -> Bytes:
        if order is None:
            found = source(begin, end)
        else:
            wanted = order[begin:end]
            low = int(wanted.min())
            found = source(low, int(wanted.max()) + 1)[wanted - low]
        return found if columns is None else with_columns(found, columns, tensor)

    return rows


def _joined(
    parts: list[Tensor], layer: LayerSpec | None, family: Family
) -> Callable[[int, int], Bytes]:
    """Rows [first, last) of matrices that are one tensor in the file: one below the other, head by
    head in turns, or side by side."""
    weight = parts[0].name.rpartition(".")[2]
    if weight in PRODUCTS:
        return lambda first, last: np.concatenate([p.rows(first, last) for p in parts], axis=1)
    if weight in family.by_head and layer is not None:
        row_bytes = formats.row_bytes(parts[0].shape[-1], parts[0].format)
        head_dim = layer.attention.head_dim
        turns = AlternatingRows([part.source for part in parts], head_dim, head_dim, row_bytes)
        return lambda first, last: turns.rows(first, last, Scratch())
    return lambda first, last: _stacked(parts, first, last)


def _shape(parts: list[Tensor], *, is_stack: bool) -> tuple[int, ...]:
    """Of vectors or matrices as one tensor: a stack of them, or the one below the other; of the two
    products of a head that predicts further tokens, side by side."""
    first = parts[0].shape
    if parts[0].name.endswith(PRODUCTS):
        return first[0], sum(part.shape[1] for part in parts)
    return (len(parts), *first) if is_stack else (sum(p.shape[0] for p in parts), *first[1:])


def _stacked(parts: list[Tensor], first: int, last: int) -> Bytes:
    """Rows [first, last) of matrices one below the other."""
    found, offset = [], 0
    for part in parts:
        begin, end = max(0, first - offset), min(part.n_rows, last - offset)
        if begin < end:
            found.append(part.rows(begin, end))
        offset += part.n_rows
    return found[0] if len(found) == 1 else np.concatenate(found)
