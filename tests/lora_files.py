"""Adapters for the tiny models of `tiny`, as peft writes them and as llama.cpp's converter does.

Like there, nothing of Pyroclast writes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

import gguf_families
import tiny
import tiny_families
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.families.tensors import tensor_shapes

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]

TARGETS = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")
NAMES = {
    "wq": "self_attn.q_proj", "wk": "self_attn.k_proj", "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj", "w_gate": "mlp.gate_proj", "w_up": "mlp.up_proj",
    "w_down": "mlp.down_proj",
}  # fmt: skip


def random_pairs(
    config: Hyperparameters, rank: int = 3, targets: Sequence[str] = TARGETS, seed: int = 0
) -> Pairs:
    """Of every layer, about half as large as the weights; values are exact in bfloat16."""
    rng = np.random.default_rng([seed, rank])
    shapes, pairs = tensor_shapes(config_of(config)), {}
    for name in (f"layers.{i}.{target}" for i in range(config.n_layers) for target in targets):
        n_rows, n_cols = shapes[name]
        a = rng.standard_normal((rank, n_cols)).astype(np.float32) / np.float32(np.sqrt(n_cols))
        b = rng.standard_normal((n_rows, rank)).astype(np.float32) / np.float32(np.sqrt(rank))
        pairs[name] = tuple((v.view(np.uint32) & 0xFFFF0000).view(np.float32) for v in (a, b))
    return pairs


def merged(weights: tiny.Weights, pairs: Pairs, scale: float) -> tiny.Weights:
    """W + scale * B @ A, summed in float64."""
    found = dict(weights)
    for name, (a, b) in pairs.items():
        added = scale * b.astype(np.float64) @ a.astype(np.float64)
        found[name] = (weights[name] + added).astype(np.float32)
    return found


def peft_tensors(pairs: Pairs) -> tiny.Weights:
    """Names as peft gives them -> values."""
    tensors = {}
    for name, (a, b) in pairs.items():
        _, layer, weight = name.split(".")
        module = f"base_model.model.model.layers.{layer}.{NAMES[weight]}"
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    return tensors


def peft_config(pairs: Pairs, alpha: float = 6) -> dict[str, Any]:
    """The fields of adapter_config.json that matter, and some that do not."""
    targets = sorted({NAMES[name.split(".")[2]].split(".")[1] for name in pairs})
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": len(next(iter(pairs.values()))[0]),
        "lora_alpha": alpha,
        "lora_dropout": 0.1,
        "target_modules": targets,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "megatron_core": "megatron.core",
        "qalora_group_size": 16,
    }


def write_peft(
    folder: Path,
    pairs: Pairs,
    *,
    alpha: float = 6,
    dtype: str = "float32",
    config: Mapping[str, Any] = {},
    tensors: tiny.Weights | None = None,
) -> Path:
    """config: fields that differ.  tensors: what is written in place of the pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(pairs, alpha) | config))
    stored = peft_tensors(pairs) if tensors is None else tensors
    tiny.write_safetensors(folder / "adapter_model.safetensors", stored, dtype)
    return folder


def write_gguf(
    path: Path,
    config: Hyperparameters,
    pairs: Pairs,
    *,
    alpha: float = 6,
    keys: Mapping[str, Any] = {},
    quant: str = "F32",
) -> Path:
    """keys: metadata that differs; None leaves one out."""
    family = FAMILIES[config.family]
    arch = family.gguf_architecture or "llama"
    writer = gguf.GGUFWriter(path, str(keys.get("general.architecture", arch)))
    metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    for key, value in (metadata | dict(keys)).items():
        if isinstance(value, str) and key != "general.architecture":
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, int | float):
            writer.add_float32(key, value)
    kind = gguf.GGMLQuantizationType[quant]
    for name, (a, b) in pairs.items():
        _, layer, weight = name.split(".")
        key = family.gguf_tensors[f"layers.{{i}}.{weight}"].format(i=layer)
        if arch == "llama" and weight in ("wq", "wk"):
            paired = tiny.pair_rows(b, config.n_heads if weight == "wq" else config.n_kv_heads)
        else:
            paired = b
        for suffix, values in (("lora_a", a), ("lora_b", paired)):
            data = gguf.quants.quantize(values, kind)
            writer.add_tensor(f"{key}.{suffix}", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_of_peft(path: Path, model: Path, adapter: Path) -> Path:
    """A folder of peft's, whose r and lora_alpha hold for all modules, as llama.cpp's
    convert_lora_to_gguf.py writes it for the base model in that folder."""
    fields = json.loads((adapter / "adapter_config.json").read_text())
    config = tiny_families.read_config(model)
    arch = gguf_families.ARCHITECTURES.get(config["model_type"], config["model_type"])
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, 16)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, fields["lora_alpha"])
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for full_name, values in load_file(adapter / "adapter_model.safetensors").items():
        module, kind = full_name.removeprefix("base_model.model.").split(".lora_")
        key = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        last = module.rpartition(".")[2]
        stored = values
        if kind == "B.weight" and last in heads and arch in gguf_families.PAIRED:
            stored = tiny.pair_rows(values, config[heads[last]])
        writer.add_tensor(f"{key}.lora_{kind[0].lower()}", stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
