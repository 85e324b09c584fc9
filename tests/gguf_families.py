"""GGUF files of the tiny models in `tiny_families`, as llama.cpp's converter writes them, by the
`gguf` package: its names of tensors, its writer, nothing of Pyroclast.

Where the converter itself is at hand, a test holds these files against it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

import tiny
import tiny_families

ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "gemma3": "gemma3",
    "granitemoeshared": "granitemoe",
    "gemma4_text": "gemma4",
    "gemma3n_text": "gemma3n",
    "mistral": "llama",
    "mistral3": "mistral3",
    "ministral3": "mistral3",
    "olmo3": "olmo2",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
    "lfm2_moe": "lfm2moe",
    "qwen3_5_text": "qwen35",
}
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
# Families whose rows of q and k the converter orders for rotary pairs.
PAIRED = ("llama", "mistral3", "smollm3", "granite", "granitemoe")
# And those of which the rotary size is not written.
MAMBA_2 = ("granitehybrid", "nemotron_h", "nemotron_h_moe")


def write_gguf(path: Path, folder: Path, kind: str = "F32") -> Path:
    """The folder's model with its matrices in that type."""
    config = tiny_families.read_config(folder)
    outer = config["model_type"]
    config = {"model_type": outer, **config.get("text_config", config)}
    arch = _architecture(config)
    writer = gguf.GGUFWriter(path, arch)
    _add_sizes(writer, arch, config)
    _add_rope(writer, config)
    _add_constants(writer, arch, config)
    if arch == "gemma4":
        _add_of_layers(writer, config)
    if arch == "gemma3n":
        _add_streams(writer, config)
    tiny._add_gguf_vocabulary(writer, tiny.BASE)
    for name, values in _tensors(folder, arch, config).items():
        kept = (".bias", "ffn_gate_inp.weight", "conv.weight", "conv1d.weight")
        matrix = values.ndim >= 2 and not name.endswith(kept)
        matrix = matrix and not name.endswith("_coef.weight")
        matrix = matrix and not name.endswith((".ssm_a", ".ssm_d", ".ssm_norm.weight"))
        stored = gguf.GGMLQuantizationType[kind if matrix else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _architecture(config: dict[str, Any]) -> str:
    kind: str = config["model_type"]
    if kind == "granitemoehybrid":
        return "granitehybrid" if "mamba" in config["layer_types"] else "granite"
    if kind == "nemotron_h" and "num_experts_per_tok" in config:
        return "nemotron_h_moe"
    return ARCHITECTURES.get(kind, kind)


def _first(config: dict[str, Any], *keys: str) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _add_sizes(writer: gguf.GGUFWriter, arch: str, config: dict[str, Any]) -> None:
    d_model = _first(config, "hidden_size", "n_embd")
    n_heads = _first(config, "num_attention_heads", "n_head")
    n_drafting = config.get("mtp_num_hidden_layers") or 0
    writer.add_block_count(_first(config, "num_hidden_layers", "n_layer") + n_drafting)
    if n_drafting:
        writer.add_nextn_predict_layers(n_drafting)
    length = _first(config, "max_position_embeddings", "n_positions")
    writer.add_context_length(1 << 20 if arch in MAMBA_2 else length)
    writer.add_embedding_length(d_model)
    writer.add_head_count(n_heads)
    d_ff = _first(config, "intermediate_size", "n_inner")
    if arch.startswith("lfm2"):
        if (multiple := config.get("block_multiple_of")) is not None:
            d_ff = multiple * math.ceil(2 * d_ff // 3 / multiple)
        kinds = config["layer_types"]
        n_kv_heads = [config["num_key_value_heads"] * (kind != "conv") for kind in kinds]
        writer.add_head_count_kv(n_kv_heads)
        writer.add_shortconv_l_cache(config["conv_L_cache"])
        writer.add_vocab_size(config["vocab_size"])
    elif arch in MAMBA_2:
        d_ff = _add_mamba_2(writer, arch, config)
    elif arch != "gpt2":
        writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_feed_forward_length(d_ff or 4 * d_model)
    if "rms_norm_eps" in config or "norm_eps" in config:
        writer.add_layer_norm_rms_eps(_first(config, "rms_norm_eps", "norm_eps"))
    else:
        assert arch not in MAMBA_2
        writer.add_layer_norm_eps(_first(config, "norm_epsilon", "layer_norm_epsilon"))
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if arch in PAIRED:
        writer.add_rope_dimension_count(config.get("head_dim") or d_model // n_heads)


def _add_mamba_2(writer: gguf.GGUFWriter, arch: str, config: dict[str, Any]) -> Any:
    """Sizes of the state and heads of keys of each layer; returns the width of feed-forwards, for
    Nemotron-H of each layer."""
    n_heads = _first(config, "mamba_n_heads", "mamba_num_heads")
    writer.add_ssm_conv_kernel(_first(config, "mamba_d_conv", "conv_kernel"))
    writer.add_ssm_state_size(_first(config, "mamba_d_state", "ssm_state_size"))
    writer.add_ssm_group_count(_first(config, "mamba_n_groups", "n_groups"))
    writer.add_ssm_time_step_rank(n_heads)
    writer.add_ssm_inner_size(n_heads * _first(config, "mamba_d_head", "mamba_head_dim"))
    writer.add_vocab_size(config["vocab_size"])
    kinds = _first(config, "layer_types", "hybrid_override_pattern")
    heads = config["num_key_value_heads"]
    writer.add_head_count_kv([heads * (kind in ("attention", "*")) for kind in kinds])
    writer.add_rope_scaling_finetuned(False)
    if arch == "granitehybrid":
        return config["intermediate_size"]
    width = config["moe_intermediate_size" if arch.endswith("_moe") else "intermediate_size"]
    return [width * (kind in "-E") for kind in kinds]


def _add_rope(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope and config["model_type"] == "gemma3n_text":
        rope = rope["full_attention"]
    if "full_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    if "rope_theta" in rope and config["model_type"] != "gemma2":
        writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType[kind.upper()])
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind == "longrope":
        original, longest = rope["original_max_position_embeddings"], 1024
        size = config["hidden_size"] // config["num_attention_heads"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_dimension_count(int(size * rope["partial_rotary_factor"]))
        amplitude = math.sqrt(1 + math.log(longest / original) / math.log(original))
        writer.add_rope_scaling_attn_factors(amplitude)
        for name in ("long", "short"):
            factors = np.array(rope[f"{name}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{name}.weight", factors)


def _add_constants(writer: gguf.GGUFWriter, arch: str, config: dict[str, Any]) -> None:
    """What one architecture has a key for."""
    if arch == "mistral3":
        writer.add_rope_scaling_yarn_log_mul(config["rope_parameters"]["mscale_all_dim"])
        writer.add_attn_temperature_scale(config["rope_parameters"]["llama_4_scaling_beta"])
    if arch in ("gemma2", "gemma3", "gemma3n", "gemma4"):
        writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    if config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if arch == "qwen35":
        _add_delta_rule(writer, config)
    _add_experts(writer, arch, config)
    if arch == "gpt-oss":
        writer.add_sliding_window(config["sliding_window"])
    if arch.startswith("granite"):
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if arch == "olmo2" and config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
        kinds = [kind == "sliding_attention" for kind in config["layer_types"]]
        writer.add_sliding_window_pattern(kinds)
    if arch == "phi3":
        writer.add_sliding_window(config["sliding_window"] or 0)


def _add_experts(writer: gguf.GGUFWriter, arch: str, config: dict[str, Any]) -> None:
    if arch == "nemotron_h_moe":
        writer.add_expert_shared_count(config["n_shared_experts"])
        writer.add_expert_weights_norm(config["norm_topk_prob"])
        writer.add_expert_weights_scale(config["routed_scaling_factor"])
        writer.add_expert_group_count(config["n_group"])
    shared = ("shared_intermediate_size", "moe_shared_expert_intermediate_size")
    if arch in ("granitemoe", "granitehybrid", "nemotron_h_moe") and _first(config, *shared):
        writer.add_expert_shared_feed_forward_length(_first(config, *shared))
    if arch != "nemotron_h" and (n_experts := _first(config, *EXPERT_COUNTS)):
        writer.add_expert_count(n_experts)
        writer.add_expert_used_count(_first(config, "num_experts_per_tok", "top_k_experts"))
    of_experts = ("qwen3moe", "gpt-oss", "lfm2moe", "nemotron_h_moe")
    if arch in of_experts or (arch == "gemma4" and config.get("moe_intermediate_size")):
        width = _first(config, "moe_intermediate_size", "intermediate_size")
        writer.add_expert_feed_forward_length(width)
    if arch == "lfm2moe":
        writer.add_leading_dense_block_count(config["num_dense_layers"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _add_of_layers(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Gemma 4: what differs between layers, and the divisors of the frequencies."""
    is_windowed = [kind == "sliding_attention" for kind in config["layer_types"]]
    n_sharing = config["num_kv_shared_layers"]
    writer.add_shared_kv_layers(n_sharing)
    writer.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
    writer.add_sliding_window_pattern(is_windowed)
    head_dim = config["global_head_dim"]
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_key_length_swa(config["head_dim"])
    writer.add_value_length_swa(config["head_dim"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_dimension_count_swa(config["head_dim"])
    if config["use_double_wide_mlp"]:
        d_ff, n_layers = config["intermediate_size"], len(is_windowed)
        n_own = n_layers - n_sharing
        writer.add_feed_forward_length([d_ff if i < n_own else 2 * d_ff for i in range(n_layers)])
    if n_whole := config["num_global_key_value_heads"]:
        n_windowed = config["num_key_value_heads"]
        writer.add_head_count_kv([n_windowed if each else n_whole for each in is_windowed])
    share = config["rope_parameters"]["full_attention"]["partial_rotary_factor"]
    n_turning = int(head_dim * share / 2)
    factors = [1.0] * n_turning + [1e30] * (head_dim // 2 - n_turning)
    writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))


def _add_streams(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Gemma 3n: residual streams, and what differs between layers."""
    import torch

    writer.add_altup_active_idx(config["altup_active_idx"])
    writer.add_altup_num_inputs(config["altup_num_inputs"])
    writer.add_embedding_length_per_layer_input(config["hidden_size_per_layer_input"])
    writer.add_shared_kv_layers(config["num_kv_shared_layers"])
    writer.add_sliding_window_pattern([kind != "full_attention" for kind in config["layer_types"]])
    shares = torch.tensor(config["activation_sparsity_pattern"])
    deviations = torch.distributions.Normal(0, 1).icdf(shares)
    writer.add_activation_sparsity_scale(deviations.tolist())


def _add_delta_rule(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    n_v_heads = config["linear_num_value_heads"]
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(n_v_heads)
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * n_v_heads)
    writer.add_full_attention_interval(4)
    writer.add_rope_dimension_sections([11, 11, 10, 0])
    writer.add_rope_dimension_count(int(config["head_dim"] * 0.25))


def _by_key_head(name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """Value heads in turns of key heads, as ggml repeats these: rows, or columns of the output."""
    n_k, n_v = config["linear_num_key_heads"], config["linear_num_value_heads"]
    heads = np.arange(n_v).reshape(n_k, -1).T.reshape(-1)
    size = config["linear_value_head_dim"]
    order = (heads[:, None] * size + np.arange(size)).reshape(-1)
    if name.endswith("out_proj.weight"):
        return values[:, order]
    if name.endswith(("A_log", "dt_proj.bias", "in_proj_a.weight", "in_proj_b.weight")):
        return values[heads]
    first = 0
    if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        first = 2 * config["linear_key_head_dim"] * n_k
    return np.concatenate([values[:first], values[first:][order]])


def _tensors(folder: Path, arch: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """By the names that the `gguf` package has for them."""
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, 32)
    found = {}
    stored = load_file(folder / "model.safetensors")
    for full_name, values in _with_stacks(stored, arch).items():
        if "vision_tower" in full_name or "multi_modal" in full_name:
            continue
        name = full_name.replace("language_model.model.", "model.")
        name = name.replace("language_model.lm_head.", "lm_head.")
        name = _of_draft_head(name, config)
        name = name.replace("dt_bias", "dt_proj.bias")
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        has_experts = bool(config.get("num_local_experts"))
        if not has_experts:
            name = name.replace("shared_mlp.output_linear", "mlp.down_proj")
        if name.endswith("input_linear.weight"):
            gate, up = np.split(values, 2, axis=-2)
            layer, kind = name.split(".")[2], "_exps" if values.ndim == 3 else ""
            kind = "_shexp" if has_experts and not kind else kind
            parts = {"gate": gate, "up": up}
            found |= {f"blk.{layer}.ffn_{part}{kind}.weight": v for part, v in parts.items()}
            continue
        suffixes = (
            "layer_scalar",
            "correct_output_scale",
            ".experts.gate_up_proj",
            ".experts.down_proj",
        )
        if name.endswith(suffixes):
            name += ".weight"
        if name.endswith(("router.scale", "per_expert_scale")):  # of Gemma 4
            layer = name.split(".")[2]
            kind = "down_exps" if name.endswith("per_expert_scale") else "gate_inp"
            found[f"blk.{layer}.ffn_{kind}.scale"] = values
            continue
        file_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if ".nextn." in name:  # which the package does not know of this architecture
            file_name = name
        assert file_name is not None, name
        found[file_name] = _converted(name, values, arch, config)
    return found


def _of_draft_head(name: str, config: dict[str, Any]) -> str:
    """A tensor of the head that predicts further tokens, as one of a layer behind the others."""
    layer = config.get("num_hidden_layers")
    if name.startswith("mtp.layers.0."):
        return name.replace("mtp.layers.0.", f"model.layers.{layer}.")
    own = {
        "mtp.fc.weight": "eh_proj",
        "mtp.norm.weight": "shared_head_norm",
        "mtp.pre_fc_norm_embedding.weight": "enorm",
        "mtp.pre_fc_norm_hidden.weight": "hnorm",
    }
    return f"blk.{layer}.nextn.{own[name]}.weight" if name in own else name


def _with_stacks(tensors: dict[str, np.ndarray], arch: str) -> dict[str, np.ndarray]:
    """With the experts of a layer as one tensor each of gate, up and down."""
    found: dict[str, Any] = {}
    for full_name, values in tensors.items():
        name = full_name.replace("expert_bias", "expert_bias.bias")
        if ".feed_forward.experts." in name:  # LFM2's
            for ours, others in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
                name = name.replace(f".{ours}.", f".{others}.")
            name = name.replace(".feed_forward.", ".mlp.")
        if ".mixer.experts." in name:
            name = name.replace("backbone.", "model.").replace(".mixer.", ".mlp.")
        layer, is_expert, last = name.partition(".mlp.experts.")
        if not is_expert:
            found[name.replace("sinks", "sinks.weight")] = values
        elif arch != "gpt-oss":
            number, product, _ = last.split(".")
            stack = found.setdefault(f"{layer}.mlp.experts.{product}.weight", {})
            stack[int(number)] = values
        elif last.endswith("bias"):
            product = last.removesuffix("_bias")
            found |= _gate_and_up(f"{layer}.mlp.experts.", product, "bias", values)
        else:
            rows = values.transpose(0, 2, 1)
            found |= _gate_and_up(f"{layer}.mlp.experts.", last, "weight", rows)
    for kind in ("altup_projections", "altup_unembed_projections"):
        parts = [key for key in found if f".{kind}." in key]
        if parts:
            stack = {int(key.split(".")[-2]): found.pop(key) for key in parts}
            found[f"model.{kind}.weight"] = stack
    return {
        name: np.stack([each[i] for i in range(len(each))]) if isinstance(each, dict) else each
        for name, each in found.items()
    }


def _gate_and_up(prefix: str, product: str, kind: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """gpt-oss's gate and up take turns; the others stay."""
    if product != "gate_up_proj":
        return {f"{prefix}{product}.{kind}": np.ascontiguousarray(rows)}
    parts = {"gate_proj": rows[:, ::2], "up_proj": rows[:, 1::2]}
    return {f"{prefix}{name}.{kind}": np.ascontiguousarray(v) for name, v in parts.items()}


def _converted(name: str, values: np.ndarray, arch: str, config: dict[str, Any]) -> np.ndarray:
    """What the converter makes of a tensor's values."""
    if arch == "gpt2" and values.ndim == 2 and ".c_" in name:
        return np.ascontiguousarray(values.T)
    if name.endswith(("conv.conv.weight", "conv1d.weight")):
        values = values[:, 0]
    if arch == "qwen35" and "linear_attn." in name:
        if not name.endswith("norm.weight"):
            values = _by_key_head(name, values, config)
        return -np.exp(values) if name.endswith("A_log") else values
    if arch in MAMBA_2 and name.endswith((".A_log", ".D")):
        return (-np.exp(values) if name.endswith("A_log") else values)[:, None]
    if arch in MAMBA_2 and name.endswith(("mamba.norm.weight", "mixer.norm.weight")):
        return values.reshape(_first(config, "mamba_n_groups", "n_groups"), -1)
    if arch == "qwen35" and name.endswith("norm.weight"):  # enorm and hnorm as well
        return values + np.float32(1)
    if arch in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return values + np.float32(1)
    for part, key in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if arch in (*PAIRED, *MAMBA_2) and f".{part}." in name:
            return tiny.pair_rows(values, config[key])
    return values
