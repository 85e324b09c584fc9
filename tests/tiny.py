"""Tiny random checkpoints of every family, as GGUF files and as Hugging Face folders.

They are written by the `gguf` package and by the few lines of safetensors below, not by code of
Pyroclast, so that a mistake in reading cannot hide behind the same mistake in writing.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np

from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.families.rope import RopeScaling
from pyroclast.families.tensors import tensor_shapes

Weights = dict[str, np.ndarray]

BASE = Hyperparameters(
    family="llama",
    n_layers=2,
    n_heads=6,
    n_kv_heads=2,  # groups of 3 heads
    head_dim=16,
    d_model=96,
    d_ff=160,
    vocab_size=320,
    max_seq_len=256,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    bos_token_id=256,
    eos_token_ids=(257,),
)

# Every family, and every option that changes the forward pass or its reading.
CONFIGS: dict[str, Hyperparameters] = {
    "llama": BASE,
    "llama-tied": replace(BASE, tie_embeddings=True),
    "llama-mha": replace(BASE, n_kv_heads=6, n_layers=1),
    "llama-wide-head": replace(BASE, n_heads=3, n_kv_heads=1, head_dim=64),
    "llama-linear": replace(BASE, rope_scaling=RopeScaling("linear", 4.0)),
    "llama-llama3": replace(
        BASE,
        tie_embeddings=True,
        head_dim=32,
        rope_theta=500_000.0,
        max_seq_len=1024,
        rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64),
    ),
    "mistral": replace(BASE, family="mistral", sliding_window=24),
    "mistral-full": replace(BASE, family="mistral"),
    "qwen2": replace(BASE, family="qwen2", qkv_bias=True, rope_theta=1e6, norm_eps=1e-6),
    "qwen2-tied": replace(BASE, family="qwen2", qkv_bias=True, tie_embeddings=True),
}

MERGES = ["t h", "th e", "i n", "a n", "an d", "Ġ t", "Ġ a"]


def random_weights(config: Hyperparameters, seed: int = 0) -> Weights:
    """Canonical name -> float32, every value exact in bfloat16 and in float16."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for name, shape in tensor_shapes(config_of(config)).items():
        values = rng.standard_normal(shape).astype(np.float32)
        values *= 0.8 / np.sqrt(shape[-1]) if len(shape) == 2 else 0.1
        if "norm" in name and not name.endswith("bias"):
            values += 1
        # Seven bits of mantissa, and nothing so small that float16 would round it.
        values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
        values[np.abs(values) < 1e-4] = 0
        weights[name] = values
    return weights


def vocabulary(config: Hyperparameters) -> list[str]:
    """Byte-level tokens, two control tokens, the merges, and fillers up to vocab_size."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    tokens = [letters[byte] for byte in range(256)] + ["<|bos|>", "<|eos|>"]
    tokens += [merge.replace(" ", "") for merge in MERGES]
    tokens += [f"<|unused_{i}|>" for i in range(len(tokens), config.vocab_size)]
    return tokens[: config.vocab_size]


# -- GGUF ------------------------------------------------------------------------------------


def write_gguf(
    path: Path,
    config: Hyperparameters,
    weights: Weights,
    quant: str = "F32",
    raw: Mapping[str, tuple[str, np.ndarray]] = MappingProxyType({}),
) -> Path:
    """Write a GGUF file, matrices in the type `quant`, as llama.cpp's converter would.  `raw` has
    (type, uint8 rows) of tensors that are written as they are."""
    family = FAMILIES[config.family]
    arch = family.gguf_architecture or "llama"
    writer = gguf.GGUFWriter(path, arch)
    _add_gguf_config(writer, arch, config)
    for field, value in config.extra.items():
        writer.add_float64(f"{arch}.{family.gguf_keys[field]}", value)
    _add_gguf_vocabulary(writer, config)
    for source, name, given in _as_stored(family.gguf_tensors, family.gguf_fused, weights):
        fits = given.ndim == 2 and given.shape[1] % 32 == 0  # filters of convolutions do not
        kind = gguf.GGMLQuantizationType[quant if fits else "F32"]
        if name in raw:
            kind, values = gguf.GGMLQuantizationType[raw[name][0]], raw[name][1]
        else:
            values = gguf.quants.quantize(given, kind)
        if arch == "llama" and name.rpartition(".")[2] in ("wq", "wk", "bq", "bk"):
            n_heads = config.n_heads if name.endswith("q") else config.n_kv_heads
            values = pair_rows(values, n_heads)
        writer.add_tensor(source, values, raw_dtype=kind)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_gguf_config(writer: gguf.GGUFWriter, arch: str, config: Hyperparameters) -> None:
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if config.head_dim * config.n_heads != config.d_model:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.sliding_window is not None:
        writer.add_uint32(f"{arch}.attention.sliding_window", config.sliding_window)
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)


def _add_gguf_vocabulary(writer: gguf.GGUFWriter, config: Hyperparameters) -> None:
    tokens = vocabulary(config)
    control = {config.bos_token_id, *config.eos_token_ids}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in control else 1 for i in range(len(tokens))])
    writer.add_token_merges(MERGES)
    if config.bos_token_id is not None:
        writer.add_bos_token_id(config.bos_token_id)
    for token_id in config.eos_token_ids[:1]:
        writer.add_eos_token_id(token_id)


def pair_rows(values: np.ndarray, n_heads: int) -> np.ndarray:
    """llama.cpp's row order of q and k: convert_hf_to_gguf.py's LlamaModel.permute."""
    half = values.shape[0] // n_heads // 2
    paired = values.reshape(n_heads, 2, half, *values.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(paired).reshape(values.shape)


def llama3_factors(config: Hyperparameters) -> np.ndarray:
    """rope_freqs.weight as convert_hf_to_gguf.py computes it, in plain Python."""
    scaling = config.rope_scaling
    assert scaling is not None
    factors = []
    for i in range(0, config.head_dim, 2):
        wavelength = 2 * np.pi * config.rope_theta ** (i / config.head_dim)
        if wavelength < scaling.original_max_seq_len / scaling.high_freq_factor:
            factors.append(1.0)
        elif wavelength > scaling.original_max_seq_len / scaling.low_freq_factor:
            factors.append(scaling.factor)
        else:
            smooth = scaling.original_max_seq_len / wavelength - scaling.low_freq_factor
            smooth /= scaling.high_freq_factor - scaling.low_freq_factor
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, dtype=np.float32)


# -- Hugging Face folders --------------------------------------------------------------------


def write_folder(
    folder: Path,
    config: Hyperparameters,
    weights: Weights,
    dtype: str = "float32",
    n_files: int = 1,
) -> Path:
    """Write config.json, tokenizer files, and the weights in one safetensors file or several."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config(config, dtype), indent=1))
    write_hf_tokenizer(folder, config)
    family = FAMILIES[config.family]
    turned = {
        name: values.T if name.rpartition(".")[2] in family.hf_transposed else values
        for name, values in weights.items()
    }
    columns = bool(family.hf_transposed)
    stored = _as_stored(family.hf_tensors, family.hf_fused, turned, columns=columns)
    tensors = {source: values for source, _, values in stored}
    if n_files == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    weight_map = {}
    for part in range(n_files):
        file_name = f"model-{part + 1:05}-of-{n_files:05}.safetensors"
        names = list(tensors)[part::n_files]
        write_safetensors(folder / file_name, {name: tensors[name] for name in names}, dtype)
        weight_map.update(dict.fromkeys(names, file_name))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def hf_config(config: Hyperparameters, dtype: str = "float32") -> dict[str, Any]:
    """config.json as transformers writes it."""
    class_name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}.get(config.family, "")
    family = FAMILIES[config.family]
    result: dict[str, Any] = {
        "architectures": [f"{class_name}ForCausalLM"],
        "model_type": family.hf_model_type,
        "hidden_act": "silu",
        "torch_dtype": dtype,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": next(iter(config.eos_token_ids), None),
    }
    if config.head_dim * config.n_heads != config.d_model:
        result["head_dim"] = config.head_dim
    result |= {family.hf_keys[field]: value for field, value in config.extra.items()}
    if config.family == "mistral":
        result["sliding_window"] = config.sliding_window
    scaling = config.rope_scaling
    if scaling is not None:
        result["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            result["rope_scaling"] |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_seq_len,
            }
    return result


def write_hf_tokenizer(folder: Path, config: Hyperparameters) -> None:
    """tokenizer.json and tokenizer_config.json: the same vocabulary as in the GGUF file."""
    tokens = vocabulary(config)
    control = [i for i in (config.bos_token_id, *config.eos_token_ids) if i is not None]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": tokens[i], "special": True, **flags} for i in control
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"bos_token": config.bos_token_id, "eos_token": next(iter(config.eos_token_ids), None)}
    special = {name: tokens[i] for name, i in names.items() if i is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def write_safetensors(path: Path, tensors: Weights, dtype: str = "float32") -> None:
    """The format as its specification states it; values must be exact in `dtype`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data: list[bytes] = []
    n_bytes = 0
    for name, values in tensors.items():
        if dtype == "bfloat16":
            raw, code = (values.view(np.uint32) >> 16).astype("<u2").tobytes(), "BF16"
        else:
            code = {"float32": "F32", "float16": "F16", "float64": "F64"}[dtype]
            raw = values.astype(dtype).tobytes()
        header[name] = {
            "dtype": code,
            "shape": list(values.shape),
            "data_offsets": [n_bytes, n_bytes + len(raw)],
        }
        data.append(raw)
        n_bytes += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *data]))


def _as_stored(
    names: Mapping[str, str],
    fused: Mapping[str, tuple[str, ...]],
    weights: Weights,
    *,
    columns: bool = False,
) -> list[tuple[str, str, np.ndarray]]:
    """(the file's name, canonical name of it or of its first part, values) of each tensor; columns:
    the parts of fused matrices stand side by side, as transposed."""
    keys = {part: (key, parts) for key, parts in fused.items() for part in parts}
    found = []
    for name, values in weights.items():
        prefix, dot, weight = name.rpartition(".")
        key, parts = keys.get(weight, (names.get(_template(name)), (weight,)))
        if weight == parts[0]:
            named = (prefix + dot + part for part in parts)  # of which small models have a few
            each = [weights[part] for part in named if part in weights]
            joined = np.concatenate(each, axis=values.ndim - 1 if columns else 0)
            found.append((key.format(i=_layer(name)), name, joined))
    return found


def _template(name: str) -> str:
    first, *rest = name.split(".")
    return ".".join([first, "{i}", *rest[1:]]) if first == "layers" else name


def _layer(name: str) -> str:
    return name.split(".")[1] if name.startswith("layers.") else ""
