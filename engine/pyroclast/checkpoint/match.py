"""Which tensor of a file is which weight: found by name, checked for shape, rows in our order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.parts import Naming, StoredTensor, find_part, part_tensor
from pyroclast.checkpoint.scales import scale_key, scaled
from pyroclast.checkpoint.tensor import Tensor
from pyroclast.errors import UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import IGNORED_TENSOR_SUFFIXES, Family
from pyroclast.families.layer_spec import AttentionSpec
from pyroclast.families.tensors import Shape, name_in_file, template_of, tensor_shapes

__all__ = ["Naming", "StoredTensor", "filled", "flattened", "match_tensors", "unread_names"]


def match_tensors(
    config: ModelConfig, naming: Naming, stored: Mapping[str, StoredTensor]
) -> dict[str, Tensor]:
    """Find and check every tensor that the config calls for, and refuse any that it does not:
    a weight left out would make wrong text, not an error.
    """
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    shapes = tensor_shapes(config)
    own = _own_names(naming, shapes)
    for name in shapes:
        part = find_part(naming, stored, shapes, name)
        template, layer = template_of(name)
        weight, order = template.rpartition(".")[2], None
        if weight in naming.paired and layer is not None:
            order = pairs_apart(config.layers[layer].attention, weight)
        tensors[name] = part_tensor(
            name,
            part,
            [stored[key] for key in part.keys],
            order=order,
            is_transposed=weight in naming.transposed,
        )
        used.update(part.keys)
        scale = scale_key(part.keys[0]) if len(part.keys) == 1 else None
        if scale is not None and scale in stored and scale not in own:
            tensors[name] = scaled(tensors[name], stored[scale])
            used.add(scale)
    used |= unread_names(config, naming)
    surplus = [
        name for name in stored if name not in used and not name.endswith(IGNORED_TENSOR_SUFFIXES)
    ]
    if surplus:
        raise UnsupportedModelError(
            f"{len(surplus)} tensors have no place in a {config.family} model of {config.n_layers} "
            f"layers: {', '.join(map(repr, surplus[:4]))}{', ...' if len(surplus) > 4 else ''}"
        )
    return tensors


def _own_names(naming: Naming, shapes: Mapping[str, Shape]) -> set[str]:
    """What the file calls the weights that have tensors of their own."""
    named = (name for name in shapes if template_of(name)[0] in naming.names)
    return {name_in_file(naming.names, name) for name in named}


def flattened(stored: Mapping[str, StoredTensor], family: Family) -> dict[str, StoredTensor]:
    """The tensors of a GGUF file, with the vectors that it has as matrices (Family.gguf_flat), and
    with stacks of matrices that belong to no layer as these below one another."""
    names = (family.gguf_tensors[f"layers.{{i}}.{each}"] for each in family.gguf_flat)
    suffixes = tuple(name.partition("{i}")[2] for name in names)
    found = {
        name: replace(each, shape=(math.prod(each.shape),))
        if suffixes and name.endswith(suffixes) and len(each.shape) == 2
        else each
        for name, each in stored.items()
    }
    for name in (key for key in family.gguf_fused if "{i}" not in key):
        if name in found and len(shape := found[name].shape) == 3:
            found[name] = replace(found[name], shape=(shape[0] * shape[1], shape[2]))
    return found


def filled(
    stored: Mapping[str, StoredTensor],
    config: ModelConfig,
    naming: Naming,
    *,
    any_number: bool = False,
) -> dict[str, StoredTensor]:
    """With all rows of the table of layer inputs, of which a folder may have some only.
    any_number: a GGUF file does not say how many the folder has that it was made from."""
    given, found = config.layer_input, dict(stored)
    table = found.get(name := naming.names.get("layer_embd", ""))
    if given is None or table is None:
        return found
    n_stored = given.n_stored
    if n_stored is None and any_number:
        n_stored = min(table.shape[0], given.n_rows) or None
    if n_stored is not None and table.shape[:1] == (n_stored,):
        shape = (given.n_rows, *table.shape[1:])
        found[name] = replace(table, shape=shape, stored_rows=n_stored)
    return found


def unread_names(config: ModelConfig, naming: Naming) -> set[str]:
    """What a file calls the keys and values of layers that read another's cache: published files
    have them, and nothing uses them.  Likewise the scale of a first stream that is not scaled."""
    sharing = [i for i, each in config.attentions.items() if each.cache_layer is not None]
    templates = [f"layers.{{i}}.{name}" for name in ("wk", "wv", "bk", "bv", "k_norm")]
    names = [naming.names[template] for template in templates if template in naming.names]
    unread = {name.format(i=i) for i in sharing for name in names}
    scale = naming.names.get("layers.{i}.altup_scale")
    if config.streams is not None and not config.streams.scales and scale is not None:
        unread |= {scale.format(i=i) for i in range(config.n_layers)}
    return unread


def pairs_apart(attention: AttentionSpec, weight: str) -> npt.NDArray[np.intp]:
    """Where each row of a rotary projection lies in a file that orders rows by rotary pairs.

    Within a head such a file has rows 0, h, 1, h + 1, ... of the half-split order, h being half of
    the dimensions that rotate; so our row (half, i) is its row (i, half).  The rest stays.
    """
    n_heads = attention.n_heads if weight in ("wq", "bq") else attention.n_kv_heads
    rope, head_dim = attention.rope, attention.head_dim
    rotary_dim = head_dim if rope is None else rope.rotated(head_dim)
    head = np.arange(head_dim)
    head[:rotary_dim] = head[:rotary_dim].reshape(rotary_dim // 2, 2).T.reshape(-1)
    return (np.arange(n_heads)[:, None] * head_dim + head).reshape(-1)
