"""Which tensor of a file is which weight: found by name, checked for shape, rows in our order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.tensor import JoinedRows, MappedRows, Tensor
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import IGNORED_TENSOR_SUFFIXES
from pyroclast.families.layer_spec import AttentionSpec
from pyroclast.families.tensors import name_in_file, template_of, tensor_shapes
from pyroclast.files.mapped_file import MappedFile
from pyroclast_kernels.weights import formats


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as either file format describes it; format is None if it cannot be a weight."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    format: str | None
    file: MappedFile
    offset: int


def match_tensors(
    config: ModelConfig,
    names: Mapping[str, str],
    paired: frozenset[str],
    stored: Mapping[str, StoredTensor],
) -> dict[str, Tensor]:
    """Find and check every tensor that the config calls for, and refuse any that it does not:
    a weight left out would make wrong text, not an error.
    """
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, shape in tensor_shapes(config).items():
        source_name = name_in_file(names, name)
        if source_name not in stored:
            raise ModelFileError(f"tensor {source_name!r} is missing")
        template, layer = template_of(name)
        weight, order = template.rpartition(".")[2], None
        if weight in paired and layer is not None:
            order = pairs_apart(config.layers[layer].attention, weight)
        tensors[name] = _tensor(name, stored[source_name], shape, order)
        used.add(source_name)
    surplus = [
        name for name in stored if name not in used and not name.endswith(IGNORED_TENSOR_SUFFIXES)
    ]
    if surplus:
        raise UnsupportedModelError(
            f"{len(surplus)} tensors have no place in a {config.family} model of {config.n_layers} "
            f"layers: {', '.join(map(repr, surplus[:4]))}{', ...' if len(surplus) > 4 else ''}"
        )
    return tensors


def _tensor(
    name: str,
    stored: StoredTensor,
    shape: tuple[int, ...],
    order: npt.NDArray[np.intp] | None,
) -> Tensor:
    what = f"tensor {stored.name!r}"
    if stored.shape != shape:
        raise ModelFileError(f"{what} has shape {stored.shape}; the config calls for {shape}")
    if stored.format is None:
        raise UnsupportedModelError(
            f"{what} has type {stored.type_name}, which cannot be a weight; supported: "
            "F32, F16, BF16"
        )
    if len(shape) == 1 and order is not None:
        # A vector's "rows" are its values.
        if formats.FORMATS[stored.format].block_columns != 1:
            raise UnsupportedModelError(f"{what} is a vector in {stored.type_name}; use F32")
        value_bytes = formats.row_bytes(1, stored.format)
        inner = MappedRows(stored.file, stored.offset, shape[0], value_bytes, order)
        return Tensor(name, stored.name, stored.format, shape, JoinedRows(inner))
    row_bytes = formats.row_bytes(shape[-1], stored.format)
    source = MappedRows(stored.file, stored.offset, math.prod(shape[:-1]), row_bytes, order)
    return Tensor(name, stored.name, stored.format, shape, source)


def pairs_apart(attention: AttentionSpec, weight: str) -> npt.NDArray[np.intp]:
    """Where each row of a rotary projection lies in a file that orders rows by rotary pairs.

    Within a head such a file has rows 0, h, 1, h + 1, ... of the half-split order, h being
    head_dim / 2; so our row (half, i) is its row (i, half).
    """
    n_heads = attention.n_heads if weight in ("wq", "bq") else attention.n_kv_heads
    head_dim = attention.head_dim
    in_file = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    return in_file.swapaxes(1, 2).reshape(-1)
