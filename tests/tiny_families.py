"""Tiny random models of published families, written by `transformers` itself: their config classes
make config.json, their models the tensors' names and shapes.  `tiny_family_configs` lists them.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from tiny_family_configs import MODELS
from tiny_family_sizes import EYE, SIZES

N_PROMPT, N_ANSWER = 600, 32
PROMPT = np.random.default_rng(7).integers(0, 256, N_PROMPT).tolist()


def make_config(name: str, **more: Any) -> Any:
    """The config of transformers' own class; more changes it further."""
    import transformers

    class_name, changes = MODELS[name]
    changes = changes | more
    config_class = getattr(transformers, class_name)
    if class_name == "GPT2Config":
        return config_class(**changes)
    if name.endswith("-nested"):
        if class_name == "Gemma4Config":
            return config_class(text_config=SIZES | changes, vision_config=EYE | {"head_dim": 16})
        kind = {"Gemma3Config": "siglip_vision_model", "Mistral3Config": "pixtral"}[class_name]
        return config_class(
            text_config=SIZES | changes,
            vision_config={**EYE, "model_type": kind},
            tie_word_embeddings=class_name == "Gemma3Config",
        )
    return config_class(**(SIZES | changes))


def write_folder(folder: Path, name: str, **more: Any) -> Any:
    """Writes the folder, with a tokenizer, and returns the model in float32.  more: changes of
    its config."""
    import torch
    import transformers

    torch.set_num_threads(1)  # more only wait for each other on a busy machine: 20 times slower
    config = make_config(name, **more)
    make: Any = transformers.AutoModelForCausalLM.from_config
    if name.endswith("-nested"):
        kind = type(config).__name__.removesuffix("Config")
        make = getattr(transformers, f"{kind}ForConditionalGeneration")
    model = make(config).eval()
    model.set_attn_implementation("eager")
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for tensor_name, parameter in model.named_parameters():
            values = random_values(rng, tensor_name, parameter.shape, name)
            parameter.copy_(torch.from_numpy(values))
        for tensor_name, buffer in model.named_buffers():
            if tensor_name.endswith(("expert_bias", "e_score_correction_bias", "layer_scalar")):
                values = random_values(rng, tensor_name, buffer.shape, name)
                buffer.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
    if name.startswith("gemma3n"):
        _add_unread(folder, config)
    vocab_size = config.get_text_config().vocab_size
    tiny.write_hf_tokenizer(folder, replace(tiny.BASE, vocab_size=vocab_size))
    # Else transformers takes the family's own class, which adds tokens.
    path = folder / "tokenizer_config.json"
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", **json.loads(path.read_text())}
    path.write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(published(read_config(folder), name)))
    return model


def _add_unread(folder: Path, config: Any) -> None:
    """Keys and values of layers that read another's cache: published files have them, nobody reads
    them, and llama.cpp wants them."""
    from safetensors.numpy import load_file

    path = folder / "model.safetensors"
    tensors, n_layers = load_file(path), config.num_hidden_layers
    for i in range(n_layers - config.num_kv_shared_layers, n_layers):
        prefix = f"model.layers.{i}.self_attn."
        shape = (config.num_key_value_heads * config.head_dim, config.hidden_size)
        tensors[f"{prefix}k_norm.weight"] = np.ones(config.head_dim, np.float32)
        tensors |= {f"{prefix}{each}_proj.weight": np.ones(shape, np.float32) for each in "kv"}
    tiny.write_safetensors(path, tensors)


def published(config: dict[str, Any], name: str) -> dict[str, Any]:
    """config.json as published; transformers reads this spelling and writes another."""
    if name.startswith("granite4"):
        names = {"full_attention": "attention", "linear_attention": "mamba"}
        config["layer_types"] = [names[kind] for kind in config["layer_types"]]
        config["time_step_limit"] = [0.0, math.inf]
    if name.startswith("nemotron-h"):
        letters = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}
        kinds = config.pop("layers_block_type")
        config["hybrid_override_pattern"] = "".join(letters[kind] for kind in kinds)
        config["num_hidden_layers"] = len(kinds)
        config["rms_norm_eps"] = config["layer_norm_epsilon"]
    if name.startswith("gemma4"):
        config = _published_gemma4(config, name)
    if name == "nemotron-h":  # by such keys the converter knows those with experts
        others = ("n_group", "topk_group")
        config = {key: config[key] for key in config if "expert" not in key and key not in others}
    return config


def _published_gemma4(config: dict[str, Any], name: str) -> dict[str, Any]:
    """With the sizes of the layers that see everything in place of an object for each of them."""
    text = config.get("text_config", config)
    del text["per_layer_config"]
    changes = MODELS[name][1]
    for key in ("global_head_dim", "num_global_key_value_heads"):
        text[key] = changes.get(key)
    return config | {"architectures": ["Gemma4ForConditionalGeneration"]}


def random_values(
    rng: np.random.Generator, tensor_name: str, shape: tuple[int, ...], model: str
) -> np.ndarray:
    """float32 values, exact in bfloat16 and in float16, that keep activations near 1."""
    values = rng.standard_normal(shape).astype(np.float32)
    if len(shape) >= 2:
        # GPT-2 stores matrices as (in, out).
        transposed = "c_" in tensor_name and model.startswith("gpt2")
        values *= 0.8 / np.sqrt(shape[0] if transposed else shape[-1])
    else:
        values *= 0.1
    is_embedding = "embed" in tensor_name
    if is_embedding and ("moe" in model or "oss" in model):
        values *= 8  # so that a token's own row decides its experts, and each expert has some
    if model.startswith("gemma3n") and tensor_name.endswith(("q_norm.weight", "k_norm.weight")):
        return random_values(rng, "norm.weight", shape, "") / 2  # its scores are not scaled
    if "modality_router" in tensor_name:
        values *= 16  # what it reads is divided by the width
    is_norm = "norm" in tensor_name or "ln_" in tensor_name
    of_router = tensor_name.endswith(("router.scale", "per_expert_scale"))
    less_1 = model.startswith(("gemma2", "gemma3")) and not model.startswith("gemma3n")
    is_norm = is_norm and tensor_name.endswith("weight") and not less_1
    if is_norm or of_router or tensor_name.endswith(("layer_scalar", "correct_output_scale")):
        values += 1
    if tensor_name.endswith("router.scale"):
        values *= 16  # the model divides it by the root of d_model
    values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    values[np.abs(values) < 1e-4] = 0
    return values


def read_config(folder: Path) -> dict[str, Any]:
    """config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config
