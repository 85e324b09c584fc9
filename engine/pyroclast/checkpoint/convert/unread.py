"""Keys and values of layers that read another layer's cache.  Gemma 3n's folders have them.
Nothing reads them, but llama.cpp refuses a file without them, so they come along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from pyroclast.checkpoint.convert.source import SourceTensor
from pyroclast.checkpoint.folder_tensors import folder_tensors
from pyroclast.checkpoint.match import unread_names
from pyroclast.checkpoint.parts import Naming, Part, part_tensor
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.files.hf_folder import HFFolder


def unread_tensors(
    path: Path, h: Hyperparameters, config: ModelConfig, family: Family, files: ExitStack
) -> list[SourceTensor]:
    """Those that the folder at path has, by their names in a GGUF file; files closes what was
    opened for them.  None of a family whose files do without."""
    if config.streams is None or not unread_names(config, Naming.of_folder(family)):
        return []
    folder = HFFolder(path)
    files.callback(folder.close)
    stored = folder_tensors(folder, family, h)
    found = []
    for template, layer, shape in _places(config):
        key = family.hf_tensors[template].format(i=layer)
        if key not in stored:
            continue
        name = template.format(i=layer)
        part = Part((key,), shape, 0, shape[0])
        tensor = part_tensor(name, part, [stored[key]], order=None, is_transposed=False)
        file_name = family.gguf_tensors[template].format(i=layer)
        found.append(SourceTensor(file_name, shape, tensor.format, tensor.rows))
    return found


def _places(config: ModelConfig) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """(canonical name, layer, shape) of each."""
    for i, attention in config.attentions.items():
        if attention.cache_layer is not None:
            yield "layers.{i}.wk", i, (attention.kv_dim, config.d_model)
            yield "layers.{i}.wv", i, (attention.kv_dim, config.d_model)
            yield "layers.{i}.k_norm", i, (attention.head_dim,)
