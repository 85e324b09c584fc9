"""Configs of tiny models of published families, as classes of `transformers` and arguments."""

from __future__ import annotations

from typing import Any

from tiny_family_sizes import (
    GEMMA,
    GEMMA3_ROPE,
    GEMMA3N,
    GEMMA3N_OPTIONS,
    GEMMA4,
    GEMMA4_EXPERTS,
    GPT2,
    GPT_OSS,
    GRANITE,
    LONGROPE,
    MAMBA2,
    NEMOTRON_H,
    NEMOTRON_H_MOE,
    QWEN3_5,
    QWEN3_MOE,
    TEMPERATURE,
    YARN,
)

# name -> (config class of transformers, its arguments beside SIZES)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-gelu": ("LlamaConfig", {"hidden_act": "gelu"}),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": YARN}),
    "llama-yarn-explicit": (
        "LlamaConfig",
        {
            "rope_parameters": YARN
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
    "ministral3": ("Ministral3Config", {"head_dim": 24, "rope_parameters": YARN | TEMPERATURE}),
    "ministral3-mscale": (
        "Ministral3Config",
        {"head_dim": 24, "rope_parameters": YARN | TEMPERATURE | {"mscale_all_dim": 0.3}},
    ),
    "mistral3-nested": (
        "Mistral3Config",
        {"model_type": "ministral3", "head_dim": 24, "rope_parameters": YARN | TEMPERATURE},
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
    "qwen3-yarn": ("Qwen3Config", {"head_dim": 24, "rope_parameters": YARN}),
    "qwen3-moe": ("Qwen3MoeConfig", QWEN3_MOE),
    "qwen3-moe-mixed": (
        "Qwen3MoeConfig",
        QWEN3_MOE
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
    "gpt-oss": ("GptOssConfig", GPT_OSS),
    "gpt-oss-limit": (
        "GptOssConfig",
        GPT_OSS
        | {
            "swiglu_limit": 0.5,
            "attention_bias": False,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "rope_parameters": YARN,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_5": ("Qwen3_5TextConfig", QWEN3_5),
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
        GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma2-scale": ("Gemma2Config", GEMMA | {"query_pre_attn_scalar": 2}),
    "gemma2-no-softcap": (
        "Gemma2Config",
        GEMMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        GEMMA | {"num_hidden_layers": 7, "rope_parameters": GEMMA3_ROPE},
    ),
    "gemma3-pattern": (
        "Gemma3TextConfig",
        GEMMA | {"sliding_window_pattern": 3, "final_logit_softcapping": 3.0},
    ),
    "gemma3-nested": ("Gemma3Config", GEMMA | {"num_hidden_layers": 7}),
    "gemma4": ("Gemma4TextConfig", GEMMA4),
    "gemma4-keys": (  # as the large ones: keys are values where all is seen, nothing of the token
        "Gemma4TextConfig",
        GEMMA4
        | {
            "layer_types": None,
            "num_kv_shared_layers": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "hidden_size_per_layer_input": 0,
        },
    ),
    "gemma4-nested": ("Gemma4Config", GEMMA4),
    "gemma4-moe": (  # as 26B-A4B
        "Gemma4TextConfig",
        GEMMA4
        | GEMMA4_EXPERTS
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
    "gemma4-moe-inputs": ("Gemma4TextConfig", GEMMA4 | GEMMA4_EXPERTS),  # and all else
    "gemma3n": ("Gemma3nTextConfig", GEMMA3N),
    "gemma3n-options": ("Gemma3nTextConfig", GEMMA3N_OPTIONS),
    "phi3": ("Phi3Config", {}),
    "phi3-long": (
        "Phi3Config",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
    ),
    "phi3-window": ("Phi3Config", {"sliding_window": 50}),
    "gpt2": ("GPT2Config", GPT2),
    "gpt2-scales": (
        "GPT2Config",
        GPT2 | {"n_inner": 160, "scale_attn_by_inverse_layer_idx": True},
    ),
    "granite": ("GraniteConfig", GRANITE),
    "granite-biases": (
        "GraniteConfig",
        GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "granite-moe": (
        "GraniteMoeConfig",
        GRANITE | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 72},
    ),
    "granite4": (
        "GraniteMoeHybridConfig",
        GRANITE
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
        GRANITE
        | {
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "intermediate_size": 72,
            "shared_intermediate_size": 96,
        },
    ),
    "granite4-hybrid": (
        "GraniteMoeHybridConfig",
        GRANITE
        | MAMBA2
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
        GRANITE
        | MAMBA2
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
        NEMOTRON_H
        | {
            "layers_block_type": ["linear_attention", "mlp", "full_attention"] * 2 + ["mlp"],
        },
    ),
    "nemotron-h-moe": (
        "NemotronHConfig",
        NEMOTRON_H_MOE | {"layers_block_type": ["linear_attention", "moe", "full_attention"] * 2},
    ),
    "nemotron-h-moe-mixed": (
        "NemotronHConfig",
        NEMOTRON_H_MOE
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
                "full_attention": YARN,
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
