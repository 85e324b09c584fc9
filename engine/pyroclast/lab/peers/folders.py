"""The same weights as a Hugging Face folder, for engines that do not read GGUF.

Holds config.json, model.safetensors (matrices in float16, vectors in float32) and a tokenizer.json
with nothing but the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast.checkpoint import dummy as shapes
from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES
from pyroclast.files.gguf import GGUFFile
from pyroclast.lab.peers.files import cache_directory, made_once, source_of

# (folder, target): converts the folder to what another engine reads.
Convert = Callable[[Path, Path], None]

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def hf_folder(model: str, directory: Path | None = None) -> Path:
    """A folder of the model's own weights, before any requantization; made unless it exists."""
    source, key = source_of(model, directory)
    found = cache_directory(directory) / f"{key}.hf"
    dummy = model.startswith(shapes.PREFIX)
    config = shapes.hyperparameters_of(shapes.parse(model)[0]) if dummy else None

    def make(target: Path) -> None:
        with open_checkpoint(source) as checkpoint:
            # A dummy's GGUF holds the rotary frequencies; its shape has the rule they come from.
            write_hf_folder(target, checkpoint, config or checkpoint.hyperparameters)

    made_once(found, make)
    return found


def ct2_folder(model: str, convert: Convert, directory: Path | None = None) -> Path:
    """That folder as CTranslate2 converts it."""
    folder = hf_folder(model, directory)
    found = folder.with_suffix(".ct2-int8")
    made_once(found, lambda target: convert(folder, target))
    return found


def write_hf_folder(path: Path, checkpoint: Checkpoint, config: Hyperparameters) -> None:
    """Writes the three files."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(_config(config), indent=1))
    _write_tokenizer(path, _vocabulary(checkpoint))
    _write_weights(path / "model.safetensors", checkpoint, config)


def _config(config: Hyperparameters) -> dict[str, Any]:
    family = FAMILIES[config.family]
    # What only one family names is in `extra`, if its file said it at all.
    said = {name: getattr(config, name, config.extra.get(name)) for name in family.hf_keys}
    found = {
        key: said[name]
        for name, key in family.hf_keys.items()
        if hasattr(config, name) or name in config.extra
    }
    found |= {
        "architectures": [_ARCHITECTURES[config.family]],
        "model_type": family.hf_model_type,
        "hidden_act": "silu",
        "torch_dtype": "float16",
        "bos_token_id": config.bos_token_id or 0,
        "eos_token_id": config.eos_token_ids[0] if config.eos_token_ids else 0,
    }
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        found["rope_scaling"] = {
            "rope_type": scaling.kind,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return found


def _vocabulary(checkpoint: Checkpoint) -> list[str]:
    file = GGUFFile(checkpoint.path)
    try:
        return [str(token) for token in file.metadata["tokenizer.ggml.tokens"]]
    finally:
        file.close()


def _write_tokenizer(path: Path, tokens: list[str]) -> None:
    """A tokenizer with the vocabulary alone: the benchmark feeds token ids."""
    model = {
        "type": "WordLevel",
        "vocab": {token: i for i, token in enumerate(tokens)},
        "unk_token": tokens[0],
    }
    names = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    whole: dict[str, Any] = {
        "version": "1.0",
        **dict.fromkeys(names),
        "added_tokens": [],
        "model": model,
    }
    (path / "tokenizer.json").write_text(json.dumps(whole))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": tokens[0]}
    about |= {"bos_token": tokens[0], "eos_token": tokens[0]}
    (path / "tokenizer_config.json").write_text(json.dumps(about))


def _write_weights(path: Path, checkpoint: Checkpoint, config: Hyperparameters) -> None:
    """A safetensors file: the header's length, the header, the tensors; one at a time in memory."""
    names = FAMILIES[config.family].hf_tensors
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in checkpoint.tensors.values():
        begin, n_values = end, int(np.prod(tensor.shape))
        matrix = len(tensor.shape) == 2
        end += n_values * (2 if matrix else 4)
        header[_hf_name(tensor.name, names)] = {
            "dtype": "F16" if matrix else "F32",
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in checkpoint.tensors.values():
            values = tensor.float32()
            file.write(values.astype("<f2" if len(tensor.shape) == 2 else "<f4").tobytes())


def _hf_name(name: str, names: Any) -> str:
    first, _, rest = name.partition(".")
    if first != "layers":
        return str(names[name])
    layer, _, last = rest.partition(".")
    return str(names["layers.{i}." + last].format(i=layer))
