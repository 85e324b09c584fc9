"""Tiny Gemma 4 models: config.json as published, and folders with random weights, which are written
without Pyroclast and without transformers."""

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

# As published: E2B's head sizes and layers, other sizes left out.
PUBLISHED: dict[str, Any] = {
    "model_type": "gemma4_text",
    "num_hidden_layers": 35,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "global_head_dim": 512,
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_kv_shared_layers": 20,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 256,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1e6,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
TINY: dict[str, Any] = PUBLISHED | {
    "vocab_size": 320,
    "vocab_size_per_layer_input": 320,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "global_head_dim": 64,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 32,
    "sliding_window": 40,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
KEYS: dict[str, Any] = TINY | {
    "num_kv_shared_layers": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 0,
}
BIASED = KEYS | {"attention_bias": True}
# As published: 26B-A4B, and so.
PUBLISHED_EXPERTS: dict[str, Any] = PUBLISHED | {
    "num_hidden_layers": 30,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "sliding_window": 1024,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "hidden_size_per_layer_input": 0,
    "enable_moe_block": True,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
}
EXPERTS: dict[str, Any] = KEYS | {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "use_double_wide_mlp": False,
    "enable_moe_block": True,
    "num_experts": 6,
    "top_k_experts": 2,
    "moe_intermediate_size": 64,
}


def read(config: dict[str, Any], **changes: Any) -> ModelConfig:
    """What Pyroclast makes of that config.json."""
    return config_of(hyperparameters_from_hf(config | changes, {}))


def write(folder: Path, config: dict[str, Any], more: dict[str, Any] | None = None) -> Path:
    """A folder with random weights; more: tensors in place of these or beside them, by the file's
    names, None for one that is left out."""
    tensors = random_tensors(config) | (more or {})
    folder.mkdir(exist_ok=True)
    kept = {name: values for name, values in tensors.items() if values is not None}
    tiny.write_safetensors(folder / "model.safetensors", kept)
    (folder / "config.json").write_text(json.dumps(config))
    tiny.write_hf_tokenizer(folder, tiny.BASE)
    return folder


def random_tensors(config: dict[str, Any]) -> dict[str, Any]:
    """By the folder's names, in which gate and up of the experts are one tensor."""
    rng, names = np.random.default_rng(0), FAMILIES["gemma4_text"].hf_tensors
    tensors: dict[str, Any] = {}
    for name, shape in tensor_shapes(read(config)).items():
        values = rng.standard_normal(shape).astype(np.float32)
        values *= 0.8 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1
        if "norm" in name or name.endswith(("out_scale", "gate_scales")):
            values += 1
        if name.endswith("router_norm"):
            values *= 16  # the model divides it by the root of d_model
        if not name.endswith(("w_gate_experts", "w_up_experts")):
            tensors[name_in_file(names, name)] = values
            continue
        fused = f"model.layers.{name.split('.')[1]}.experts.gate_up_proj"
        before = [tensors[fused]] if fused in tensors else []
        tensors[fused] = np.concatenate([*before, values], axis=1)  # gate comes first
    return tensors
