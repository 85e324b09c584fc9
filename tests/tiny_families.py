"""Tiny random models of published families, written by `transformers` itself: their config classes
make config.json, their models the tensors' names and shapes.

Whatever depends on the length of the text is small enough for a prompt of 600 tokens to reach it.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import tiny

N_PROMPT, N_ANSWER = 600, 32
PROMPT = np.random.default_rng(7).integers(0, 256, N_PROMPT).tolist()

_SIZES = {
    "vocab_size": 320,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 0,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
_SHORT = [1.0 + i / 8 for i in range(6)]
_LONG = [1.0 + i for i in range(6)]
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": _SHORT,
    "long_factor": _LONG,
}
_TEMPERATURE = {"llama_4_scaling_beta": 0.4, "mscale": 1.0, "mscale_all_dim": 1.0}
_GRANITE = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.5,
}
_GPT2 = {
    "vocab_size": 320,
    "n_embd": 96,
    "n_layer": 4,
    "n_head": 6,
    "n_positions": 1024,
    "n_ctx": 1024,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
_GEMMA = {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 50}
_GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0},
}
# Windows on most layers; of the last four, two read the cache of each kind of layer before them.
_GEMMA4 = {
    "head_dim": 24,
    "global_head_dim": 48,
    "sliding_window": 50,
    "num_hidden_layers": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 4,
    "num_kv_shared_layers": 4,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 320,
    "final_logit_softcapping": 3.0,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 20000.0,
        },
    },
}
_GEMMA4_EXPERTS = {
    "enable_moe_block": True,
    "num_experts": 7,
    "top_k_experts": 3,
    "moe_intermediate_size": 64,
}
# What llama.cpp has built in of the published models: 20 layers with a cache of their own, ten with
# sparse gates, one width of per-layer embeddings, a softcap of 30.  It divides squares by the width
# less one to get the deviation of a gate, which the width makes small.
_GEMMA3N = {
    "head_dim": 24,
    "sliding_window": 50,
    "num_hidden_layers": 22,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 5
    + ["full_attention", "sliding_attention"],
    "num_kv_shared_layers": 2,
    "intermediate_size": 1024,
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": 320,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 20000.0},
    },
}
# What it has not: other sizes, and a file that says less.
_GEMMA3N_OPTIONS = {
    "head_dim": 24,
    "sliding_window": 50,
    "num_hidden_layers": 6,
    "intermediate_size": [160, 96, 160, 128, 160, 64],
    "activation_sparsity_pattern": [0.95, 0.8, 0.0, 0.5, 0.0, 0.3],
    "altup_num_inputs": 3,
    "altup_correct_scale": False,
    "laurel_rank": 40,
    "attention_bias": True,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": 200,  # a fifth of the prompt has the first row
    "num_kv_shared_layers": 1,
    "final_logit_softcapping": 3.0,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0},
    },
}
# Few tokens of each expert, and experts whose rows fill no group of 16.
_QWEN3_MOE = {
    "head_dim": 24,
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
# With this base YaRN's range ends at pair 3, so that rounding it up (llama.cpp) changes nothing.
_GPT_OSS = {
    "head_dim": 24,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 50,
    "rope_parameters": _YARN
    | {"rope_theta": (64 / (2 * math.pi)) ** 4 * (1 + 1e-12), "truncate": False},
}
_QWEN3_5 = {
    "head_dim": 32,  # llama.cpp's sections of rotary positions need so much
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
}
_MAMBA2 = {
    "mamba_n_heads": 6,
    "mamba_d_head": 32,
    "mamba_n_groups": 2,
    "mamba_d_state": 24,
}
_NEMOTRON_H = {
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 24,
    # transformers holds the steps of prompts above it, those of single tokens not; Nemotron's own
    # code does neither.
    "time_step_min": 1e-30,
}
_NEMOTRON_H_MOE = _NEMOTRON_H | {
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 96,
    "routed_scaling_factor": 1.5,
}
_EYE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

# name -> (config class of transformers, its arguments beside _SIZES)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-gelu": ("LlamaConfig", {"hidden_act": "gelu"}),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": _YARN}),
    "llama-yarn-explicit": (
        "LlamaConfig",
        {
            "rope_parameters": _YARN
            | {"attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False}
        },
    ),
    "llama-linear": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    # Within the context that was trained it stretches nothing.
    "llama-dynamic": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 24}),
    "mistral-window": ("MistralConfig", {"sliding_window": 50}),
    "ministral3": ("Ministral3Config", {"head_dim": 24, "rope_parameters": _YARN | _TEMPERATURE}),
    "ministral3-mscale": (
        "Ministral3Config",
        {"head_dim": 24, "rope_parameters": _YARN | _TEMPERATURE | {"mscale_all_dim": 0.3}},
    ),
    "mistral3-nested": (
        "Mistral3Config",
        {"model_type": "ministral3", "head_dim": 24, "rope_parameters": _YARN | _TEMPERATURE},
    ),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 24, "tie_word_embeddings": True}),
    "qwen3-windows": (
        "Qwen3Config",
        {
            "head_dim": 24,
            "use_sliding_window": True,
            "sliding_window": 50,
            "max_window_layers": 2,
            "attention_bias": True,
        },
    ),
    "qwen3-yarn": ("Qwen3Config", {"head_dim": 24, "rope_parameters": _YARN}),
    "qwen3-moe": ("Qwen3MoeConfig", _QWEN3_MOE),
    "qwen3-moe-mixed": (
        "Qwen3MoeConfig",
        _QWEN3_MOE
        | {
            "norm_topk_prob": False,
            "moe_intermediate_size": 40,
            "mlp_only_layers": [0],
            "decoder_sparse_step": 2,
            "use_sliding_window": True,
            "sliding_window": 50,
            "attention_bias": True,
        },
    ),
    "gpt-oss": ("GptOssConfig", _GPT_OSS),
    "gpt-oss-limit": (
        "GptOssConfig",
        _GPT_OSS
        | {
            "swiglu_limit": 0.5,
            "attention_bias": False,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "rope_parameters": _YARN,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_5": ("Qwen3_5TextConfig", _QWEN3_5),
    "lfm2": (
        "Lfm2Config",
        {"conv_L_cache": 4, "block_multiple_of": 32, "full_attn_idxs": [1, 3]},
    ),
    "lfm2-moe": (
        "Lfm2MoeConfig",
        {
            "conv_L_cache": 3,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "num_dense_layers": 1,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
        },
    ),
    "smollm3": ("SmolLM3Config", {}),
    "smollm3-windows": (
        "SmolLM3Config",
        {"use_sliding_window": True, "sliding_window": 50, "no_rope_layers": [1, 0, 0, 1]},
    ),
    "gemma2": (
        "Gemma2Config",
        _GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma2-scale": ("Gemma2Config", _GEMMA | {"query_pre_attn_scalar": 2}),
    "gemma2-no-softcap": (
        "Gemma2Config",
        _GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        _GEMMA | {"num_hidden_layers": 7, "rope_parameters": _GEMMA3_ROPE},
    ),
    "gemma3-pattern": (
        "Gemma3TextConfig",
        _GEMMA | {"sliding_window_pattern": 3, "final_logit_softcapping": 3.0},
    ),
    "gemma3-nested": ("Gemma3Config", _GEMMA | {"num_hidden_layers": 7}),
    "gemma4": ("Gemma4TextConfig", _GEMMA4),
    "gemma4-keys": (  # as the large ones: keys are values where all is seen, nothing of the token
        "Gemma4TextConfig",
        _GEMMA4
        | {
            "layer_types": None,
            "num_kv_shared_layers": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "hidden_size_per_layer_input": 0,
        },
    ),
    "gemma4-nested": ("Gemma4Config", _GEMMA4),
    "gemma4-moe": (  # as 26B-A4B
        "Gemma4TextConfig",
        _GEMMA4
        | _GEMMA4_EXPERTS
        | {
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 0,
            "use_double_wide_mlp": False,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "hidden_size_per_layer_input": 0,
        },
    ),
    "gemma4-moe-inputs": ("Gemma4TextConfig", _GEMMA4 | _GEMMA4_EXPERTS),  # and all else
    "gemma3n": ("Gemma3nTextConfig", _GEMMA3N),
    "gemma3n-options": ("Gemma3nTextConfig", _GEMMA3N_OPTIONS),
    "phi3": ("Phi3Config", {}),
    "phi3-long": (
        "Phi3Config",
        {
            "rope_parameters": _LONGROPE,
            "original_max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
    ),
    "phi3-window": ("Phi3Config", {"sliding_window": 50}),
    "gpt2": ("GPT2Config", _GPT2),
    "gpt2-scales": (
        "GPT2Config",
        _GPT2 | {"n_inner": 160, "scale_attn_by_inverse_layer_idx": True},
    ),
    "granite": ("GraniteConfig", _GRANITE),
    "granite-biases": (
        "GraniteConfig",
        _GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "granite-moe": (
        "GraniteMoeConfig",
        _GRANITE | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 72},
    ),
    "granite4": (
        "GraniteMoeHybridConfig",
        _GRANITE
        | {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 160,
            "layer_types": ["full_attention"] * 4,
            "position_embedding_type": "rope",
            "mamba_n_heads": 6,
        },
    ),
    "granite-moe-shared": (
        "GraniteMoeSharedConfig",
        _GRANITE
        | {
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "intermediate_size": 72,
            "shared_intermediate_size": 96,
        },
    ),
    "granite4-hybrid": (
        "GraniteMoeHybridConfig",
        _GRANITE
        | _MAMBA2
        | {
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 160,
            "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
            "num_hidden_layers": 6,
        },
    ),
    "granite4-hybrid-moe": (
        "GraniteMoeHybridConfig",
        _GRANITE
        | _MAMBA2
        | {
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "intermediate_size": 72,
            "shared_intermediate_size": 96,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    "nemotron-h": (
        "NemotronHConfig",
        _NEMOTRON_H
        | {
            "layers_block_type": ["linear_attention", "mlp", "full_attention"] * 2 + ["mlp"],
        },
    ),
    "nemotron-h-moe": (
        "NemotronHConfig",
        _NEMOTRON_H_MOE | {"layers_block_type": ["linear_attention", "moe", "full_attention"] * 2},
    ),
    "nemotron-h-moe-mixed": (
        "NemotronHConfig",
        _NEMOTRON_H_MOE
        | {
            "layers_block_type": ["mlp", "linear_attention", "moe", "full_attention"],
            "norm_topk_prob": False,
        },
    ),
    "olmo2": ("Olmo2Config", {}),
    "olmo3": (
        "Olmo3Config",
        {
            "num_hidden_layers": 5,
            "sliding_window": 50,
            "rope_parameters": {
                "full_attention": _YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "starcoder2": ("Starcoder2Config", {}),
    "starcoder2-window": ("Starcoder2Config", {"sliding_window": 50}),
    "starcoder2-no-biases": (
        "Starcoder2Config",
        {"use_bias": False, "tie_word_embeddings": False},
    ),
}

# Models that the converter writes whole and llama.cpp computes as transformers does.  Both leave
# out what GGUF has no key for (windows of Mistral, Phi-3, Qwen3 and StarCoder2, truncate, another
# activation or scale), and llama.cpp knows some biases only all together.
GGUF_MODELS = (
    "llama-biases",
    "llama-yarn",
    "mistral",
    "ministral3",
    "ministral3-mscale",
    "mistral3-nested",
    "llama-linear",
    "qwen2",
    "qwen3",
    "qwen3-yarn",
    "qwen3-moe",
    "gpt-oss",
    "qwen3_5",
    "lfm2",
    "lfm2-moe",
    "smollm3",
    "gemma2",
    "gemma3",
    "gemma3-nested",
    "gemma4",
    "gemma4-keys",
    "gemma4-moe",
    "gemma3n",
    "phi3",
    "phi3-long",
    "gpt2",
    "granite",
    "granite-biases",
    "granite-moe",
    "granite4",
    "granite-moe-shared",
    "granite4-hybrid",
    "granite4-hybrid-moe",
    "nemotron-h",
    "nemotron-h-moe",
    "olmo2",
    "olmo3",
    "starcoder2",
)


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
            return config_class(text_config=_SIZES | changes, vision_config=_EYE | {"head_dim": 16})
        kind = {"Gemma3Config": "siglip_vision_model", "Mistral3Config": "pixtral"}[class_name]
        return config_class(
            text_config=_SIZES | changes,
            vision_config={**_EYE, "model_type": kind},
            tie_word_embeddings=class_name == "Gemma3Config",
        )
    return config_class(**(_SIZES | changes))


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


def old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """config.json as before transformers 5: rope_scaling beside rope_theta."""
    config = dict(config)
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return config
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    for key in ("partial_rotary_factor",):
        if key in rope:
            config[key] = rope.pop(key)
    rope["type"] = rope.pop("rope_type")
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    return config


def read_config(folder: Path) -> dict[str, Any]:
    """config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config
