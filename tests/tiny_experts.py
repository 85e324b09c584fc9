"""A tiny Qwen3-MoE: its weights, a GGUF file and a folder of it, written without Pyroclast."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

import tiny
from pyroclast.families.registry import FAMILIES
from pyroclast.families.tensors import template_of

CONFIG = replace(
    tiny.BASE,
    family="qwen3_moe",
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
    d_model=64,
    d_ff=96,
    extra={"n_experts": 12, "n_active": 3, "d_expert": 32, "renormalizes": True},
)
SIZES = {"expert_count": 12, "expert_used_count": 3, "expert_feed_forward_length": 32}


def weights() -> tiny.Weights:
    """Experts and routers that matter as much as attention does."""
    found = tiny.random_weights(CONFIG)
    return {name: 4 * v if v.ndim == 3 or "router" in name else v for name, v in found.items()}


def write_gguf(
    path: Path,
    given: tiny.Weights,
    quant: str = "F32",
    changes: Mapping[str, Any] = MappingProxyType({}),
    arch: str = "qwen3moe",
) -> Path:
    """With its matrices but for routers in that type.  changes: sizes that the file states, None
    leaves one out."""
    writer = gguf.GGUFWriter(path, arch)
    tiny._add_gguf_config(writer, arch, CONFIG)
    for key, value in (SIZES | dict(changes)).items():
        if isinstance(value, int):
            writer.add_key_value(f"{arch}.{key}", value, gguf.GGUFValueType.INT64)
    tiny._add_gguf_vocabulary(writer, CONFIG)
    names = FAMILIES["qwen3_moe"].gguf_tensors
    for name, values in given.items():
        template, layer = template_of(name)
        exact = values.ndim == 1 or name.endswith("router")
        kind = gguf.GGMLQuantizationType["F32" if exact else quant]
        stored = gguf.quants.quantize(values, kind)
        writer.add_tensor(names[template].format(i=layer), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hf_tensors(given: tiny.Weights, *, stacked: bool) -> tiny.Weights:
    """As a folder has them: a tensor for each expert, or one for all of a layer."""
    names, found = FAMILIES["qwen3_moe"].hf_tensors, {}
    for name, values in given.items():
        template, layer = template_of(name)
        if values.ndim < 3:
            found[names[template].format(i=layer)] = values
        elif not stacked:
            for e, each in enumerate(values):
                found[names[template].format(i=layer, e=e)] = each
    for i in range(CONFIG.n_layers if stacked else 0):
        gate, up, down = (given[f"layers.{i}.w_{part}_experts"] for part in ("gate", "up", "down"))
        experts = f"model.layers.{i}.mlp.experts."
        found[experts + "gate_up_proj"] = np.concatenate([gate, up], axis=1)
        found[experts + "down_proj"] = down
    return found


def hf_config() -> dict[str, Any]:
    """config.json, in the spelling of the published ones."""
    plain = tiny.hf_config(replace(CONFIG, extra={}))
    return plain | {
        "head_dim": 32,
        "num_experts": 12,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    }


def write_folder(
    folder: Path, tensors: dict[str, Any], config: dict[str, Any], dtype: str = "float32"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tiny.write_hf_tokenizer(folder, CONFIG)
    tiny.write_safetensors(folder / "model.safetensors", tensors, dtype)
    return folder
