"""Tiny Gemma 3n models: config.json as published, and folders with random weights, which are
written without Pyroclast and without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from pyroclast.families.config import ModelConfig
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.families.tensors import name_in_file, tensor_shapes

# As published: E2B's sizes, others left out.
PUBLISHED: dict[str, Any] = {
    "model_type": "gemma3n_text",
    "num_hidden_layers": 30,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 6,
    "intermediate_size": [8192] * 30,
    "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 20,
    "num_kv_shared_layers": 10,
    "vocab_size": 262400,
    "vocab_size_per_layer_input": 262144,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": None,
}
# The last tokens have no row of their own in the table of per-layer embeddings.
N_ROWS = 200
TINY: dict[str, Any] = PUBLISHED | {
    "vocab_size": 320,
    "vocab_size_per_layer_input": N_ROWS,
    "hidden_size": 96,
    "intermediate_size": [160, 128, 160, 160, 96, 160],
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "activation_sparsity_pattern": [0.95, 0.8, 0.0, 0.5, 0.0, 0.0],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 32,
    "sliding_window": 40,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def read(config: dict[str, Any], **changes: Any) -> ModelConfig:
    return config_of(hyperparameters_from_hf(config | changes, {}))


def write(folder: Path, config: dict[str, Any], more: dict[str, Any] | None = None) -> Path:
    """A folder with random weights in bfloat16's values."""
    rng, names = np.random.default_rng(0), FAMILIES["gemma3n_text"].hf_tensors
    tensors: dict[str, Any] = {}
    for name, shape in tensor_shapes(read(config)).items():
        values = rng.standard_normal(shape).astype(np.float32)
        values *= 0.8 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1
        values *= 16 if name.endswith("altup_router") else 1
        values += name.endswith(("norm", "norm_after", "altup_scale"))
        values = values[:N_ROWS] if name == "layer_embd" else values
        tensors[name_in_file(names, name)] = values
    folder.mkdir(exist_ok=True)
    tiny.write_safetensors(folder / "model.safetensors", tensors | (more or {}))
    (folder / "config.json").write_text(json.dumps(config))
    tiny.write_hf_tokenizer(folder, tiny.BASE)
    return folder
