"""A model of any file format as a Hugging Face folder in float32, for transformers to train."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.errors import PyroclastError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.families.tensors import name_in_file, template_of

Floats = NDArray[np.float32]


def export(model: str | Path, folder: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files into an existing folder.

    UnsupportedModelError where config.json, made of the family's table, would describe another
    model: then only the original folder can be trained."""
    from safetensors.numpy import save_file

    with open_checkpoint(model) as checkpoint:
        h, family = checkpoint.hyperparameters, FAMILIES[checkpoint.config.family]
        config = _config_json(h, family)
        _check_same(checkpoint, config)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        for name, text in checkpoint.tokenizer().folder_files().items():
            (folder / name).write_text(text, encoding="utf-8")
        tensors = dict(_tensors(checkpoint, family))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _config_json(h: Hyperparameters, family: Family) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": family.hf_model_type, "torch_dtype": "float32"}
    for field, key in family.hf_keys.items():
        value = getattr(h, field, h.extra.get(field))
        if value is not None and field != "windowed":
            config[key] = value
    config["bos_token_id"] = h.bos_token_id
    config["eos_token_id"] = list(h.eos_token_ids) or None
    return config


def _check_same(checkpoint: Checkpoint, config: dict[str, Any]) -> None:
    wanted = checkpoint.config
    try:
        found = config_of(hyperparameters_from_hf(config, {}))
    except PyroclastError as error:
        raise _refused(checkpoint) from error
    has_experts = any(len(tensor.shape) > 2 for tensor in checkpoint.tensors.values())
    if _plain(found) != _plain(wanted) or checkpoint.hyperparameters.norm_offset or has_experts:
        raise _refused(checkpoint)


def _plain(config: ModelConfig) -> ModelConfig:
    """The config without what the forward pass does not read."""
    return replace(config, bos_token_id=None, eos_token_ids=())


def _refused(checkpoint: Checkpoint) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{checkpoint.path}: this {checkpoint.config.family} model cannot be written as a Hugging "
        "Face folder; train the folder that it was made from"
    )


def _tensors(checkpoint: Checkpoint, family: Family) -> Iterator[tuple[str, Floats]]:
    """(name in a folder, values) of every weight."""
    fused: dict[str, dict[str, Floats]] = {}
    home = {
        f"layers.{{i}}.{weight}": name for name, each in family.hf_fused.items() for weight in each
    }
    for name, tensor in checkpoint.tensors.items():
        template, layer = template_of(name)
        if template in home:
            place = home[template].format(i=layer)
            fused.setdefault(place, {})[name.rpartition(".")[2]] = tensor.float32()
            continue
        values = tensor.float32()
        is_transposed = name.rpartition(".")[2] in family.hf_transposed
        stored = np.ascontiguousarray(values.T) if is_transposed else values
        yield name_in_file(family.hf_tensors, name), stored
    for place, parts in fused.items():
        order = next(each for key, each in family.hf_fused.items() if _fits(key, place))
        rows = np.concatenate([parts[weight] for weight in order if weight in parts])
        is_transposed = order[0] in family.hf_transposed
        yield place, np.ascontiguousarray(rows.T) if is_transposed else rows


def _fits(key: str, place: str) -> bool:
    before, _, after = key.partition("{i}")
    return place.startswith(before) and place.endswith(after)
