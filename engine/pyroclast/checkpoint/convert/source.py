"""What a conversion reads: metadata ready to write, and tensors in the order of the new file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyroclast.checkpoint.convert.mixes import FFN_DOWN, VALUES, Place
from pyroclast.checkpoint.open import Closable
from pyroclast.checkpoint.tensor import FileRows, Scratch
from pyroclast.files.gguf import GGUFFile, GGUFTensorInfo
from pyroclast.files.gguf_parts import GGUFModel
from pyroclast_kernels.weights import formats

Bytes = npt.NDArray[np.uint8]

_OF_A_LAYER = re.compile(r"blk\.(\d{1,9})\.")
_HEAD, _EMBEDDING = "output.weight", "token_embd.weight"
# What describes the formats of a file, and is written new.
_REWRITTEN = ("general.file_type", "general.quantization_version", "general.alignment")


@dataclass(frozen=True)
class SourceTensor:
    """A tensor under its name in GGUF files.  rows(first, last) reads uint8 (last - first,
    row_bytes) of `format`; at_once: a part of them costs as much as all.  `added` is added to its
    values, a vector's.  delta, if any: (first, last) -> float32 to be added to those rows."""

    name: str
    shape: tuple[int, ...]
    format: str
    rows: Callable[[int, int], Bytes] = field(repr=False, compare=False)
    at_once: bool = False
    added: float = 0.0
    delta: Callable[[int, int], npt.NDArray[np.float32]] | None = field(
        default=None, repr=False, compare=False
    )


@dataclass(frozen=True)
class Source:
    """metadata: key -> the bytes of its value (`gguf_writer.Value`).  notes: what a user of the new
    file should know."""

    metadata: dict[str, bytes]
    tensors: list[SourceTensor]
    files: Closable
    notes: tuple[str, ...] = ()

    def close(self) -> None:
        """Closes the files."""
        self.files.close()

    def places(self) -> list[Place]:
        """Where each tensor stands among the others."""
        names = [each.name for each in self.tensors]
        found = [_OF_A_LAYER.match(name) for name in names]
        layers = [int(each[1]) if each else None for each in found]
        n_layers = 1 + max((layer for layer in layers if layer is not None), default=0)
        head = _HEAD if _HEAD in names else _EMBEDDING
        turns = _turns(names, layers, n_layers)
        return [
            Place(name, layer, n_layers, name == head, turns.get(name))
            for name, layer in zip(names, layers, strict=True)
        ]


def _turns(
    names: Sequence[str], layers: Sequence[int | None], n_layers: int
) -> dict[str, tuple[int, int]]:
    """Each tensor's number among those of its kind, and how many llama.cpp's quantizer takes these
    to be: values of attention among all of them, last products of feed-forwards by layer if there
    are experts, and else one after the other, though not every layer may have one."""
    pairs = zip(layers, names, strict=True)
    in_order = sorted((layer, name) for layer, name in pairs if layer is not None)
    values = [name for _, name in in_order if name.endswith(VALUES)]
    found = {name: (i, len(values)) for i, name in enumerate(values)}
    if not any(name.endswith(".ffn_gate_inp.weight") for name in names):
        last = [name for _, name in in_order if name.endswith(FFN_DOWN)]
        found |= {name: (i, n_layers) for i, name in enumerate(last)}
    return found


def gguf_source(path: Path) -> Source:
    """Metadata and tensors of a file, or of all its parts, as they are, whatever the
    architecture."""
    model = GGUFModel(path)
    metadata = {
        key: model.metadata.raw(key)
        for key in model.metadata
        if key not in _REWRITTEN and not key.startswith("split.")
    }
    tensors = [
        _gguf_tensor(file, info)
        for file in model.files
        for info in sorted(file.tensors.values(), key=lambda info: info.offset)
    ]
    return Source(metadata, tensors, model)


def _gguf_tensor(file: GGUFFile, info: GGUFTensorInfo) -> SourceTensor:
    row_bytes = formats.row_bytes(info.shape[-1], info.format)
    source = FileRows(file.file, info.name, info.offset, info.n_bytes // row_bytes, row_bytes)
    return SourceTensor(
        info.name,
        info.shape,
        info.format,
        lambda first, last: source.rows(first, last, Scratch()),
    )
