"""Sizes and options that the models of `tiny_family_configs` share, named as `transformers` does.

Whatever depends on the length of the text is small enough for a prompt of 600 tokens to reach it.
"""

from __future__ import annotations

import math

SIZES = {
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
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}
SHORT = [1.0 + i / 8 for i in range(6)]
LONG = [1.0 + i for i in range(6)]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": SHORT,
    "long_factor": LONG,
}
TEMPERATURE = {"llama_4_scaling_beta": 0.4, "mscale": 1.0, "mscale_all_dim": 1.0}
GRANITE = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.6,
    "logits_scaling": 2.5,
}
GPT2 = {
    "vocab_size": 320,
    "n_embd": 96,
    "n_layer": 4,
    "n_head": 6,
    "n_positions": 1024,
    "n_ctx": 1024,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
GEMMA = {"head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 50}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0},
}
# Windows on most layers; of the last four, two read the cache of each kind of layer before them.
GEMMA4 = {
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
GEMMA4_EXPERTS = {
    "enable_moe_block": True,
    "num_experts": 7,
    "top_k_experts": 3,
    "moe_intermediate_size": 64,
}
# What llama.cpp has built in of the published models: 20 layers with a cache of their own, ten with
# sparse gates, one width of per-layer embeddings, a softcap of 30.  It divides squares by the width
# less one to get the deviation of a gate, which the width makes small.
GEMMA3N = {
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
GEMMA3N_OPTIONS = {
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
QWEN3_MOE = {
    "head_dim": 24,
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}
# With this base YaRN's range ends at pair 3, so that rounding it up (llama.cpp) changes nothing.
GPT_OSS = {
    "head_dim": 24,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 50,
    "rope_parameters": YARN
    | {"rope_theta": (64 / (2 * math.pi)) ** 4 * (1 + 1e-12), "truncate": False},
}
QWEN3_5 = {
    "head_dim": 32,  # llama.cpp's sections of rotary positions need so much
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
}
MAMBA2 = {
    "mamba_n_heads": 6,
    "mamba_d_head": 32,
    "mamba_n_groups": 2,
    "mamba_d_state": 24,
}
NEMOTRON_H = {
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 24,
    # transformers holds the steps of prompts above it, those of single tokens not; Nemotron's own
    # code does neither.
    "time_step_min": 1e-30,
}
NEMOTRON_H_MOE = NEMOTRON_H | {
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 96,
    "routed_scaling_factor": 1.5,
}
EYE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
