"""gpt-oss: experts with a clamped SwiGLU and biases, attention sinks, a window on every second
layer, YaRN with a range that is not rounded."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import GGUF_EXPERTS, ExpertsSpec, without_dense
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import FeedForwardSpec, LayerSpec
from pyroclast.families.rope import RopeScaling, RopeSpec

_ALPHA, _LIMIT = 1.702, 7.0  # of the activation; GGUF files do not say
_SCALING = RopeScaling("yarn", 32.0, original_max_seq_len=4096, truncate=False)


def _rope(h: Hyperparameters) -> RopeSpec:
    """GGUF has no key for truncate, which is false in every published model."""
    scaling = h.rope_scaling
    if scaling is not None and not h.flag("yarn_truncate", True):
        scaling = replace(scaling, truncate=False)
    return replace(h.rope, scaling=scaling)


def _layer(h: Hyperparameters, i: int, rope: RopeSpec) -> LayerSpec:
    """Layer i; where the file has no list, layers 0, 2, ... have the window."""
    windowed = h.windowed[i] if h.windowed is not None else i % 2 == 0
    window = h.sliding_window if windowed else None
    spec = llama.layer(h, i, window=window, rope=rope, sinks=True)
    experts = ExpertsSpec(
        h.extra.get("n_experts", 0),
        h.extra.get("n_active", 0),
        renormalize=True,
        router_bias=True,
    )
    ffn = FeedForwardSpec(
        h.d_ff,
        "quick_gelu",
        bias=True,
        limit=h.positive("swiglu_limit", _LIMIT),
        up_offset=1.0,
        experts=experts,
    )
    return replace(spec, ffn=ffn)


def config(h: Hyperparameters) -> ModelConfig:
    """n_layers of that layer."""
    rope = _rope(h)
    return h.config(_layer(h, i, rope) for i in range(h.n_layers))


_HF_EXPERTS = "model.layers.{i}.mlp.experts."

GPT_OSS = Family(
    name="gpt_oss",
    config=config,
    hf_model_type="gpt_oss",
    gguf_architecture="gpt-oss",
    hf_tensors=without_dense(llama.HF_TENSORS)
    | {
        "layers.{i}.sinks": "model.layers.{i}.self_attn.sinks",
        "layers.{i}.w_router": "model.layers.{i}.mlp.router.weight",
        "layers.{i}.b_router": "model.layers.{i}.mlp.router.bias",
        "layers.{i}.w_down_experts": _HF_EXPERTS + "down_proj",
        "layers.{i}.b_down_experts": _HF_EXPERTS + "down_proj_bias",
    },
    hf_fused={
        _HF_EXPERTS + "gate_up_proj": ("w_gate_experts", "w_up_experts"),
        _HF_EXPERTS + "gate_up_proj_bias": ("b_gate_experts", "b_up_experts"),
    },
    hf_transposed=frozenset({"w_gate_experts", "w_up_experts", "w_down_experts"}),
    hf_alternating=frozenset({"w_gate_experts", "w_up_experts", "b_gate_experts", "b_up_experts"}),
    hf_quantizations=frozenset({"mxfp4"}),
    gguf_tensors=without_dense(llama.GGUF_TENSORS)
    | GGUF_EXPERTS
    | {
        "layers.{i}.ffn_norm": "blk.{i}.post_attention_norm.weight",
        "layers.{i}.sinks": "blk.{i}.attn_sinks.weight",
        "layers.{i}.b_router": "blk.{i}.ffn_gate_inp.bias",
        "layers.{i}.b_gate_experts": "blk.{i}.ffn_gate_exps.bias",
        "layers.{i}.b_up_experts": "blk.{i}.ffn_up_exps.bias",
        "layers.{i}.b_down_experts": "blk.{i}.ffn_down_exps.bias",
    },
    hf_keys={
        **{
            field: key
            for field, key in llama.HF_KEYS.items()
            if field not in ("ffn_bias", "activation")
        },
        "sliding_window": "sliding_window",
        "windowed": "layer_types",
        "n_experts": "num_local_experts",
        "n_active": "num_experts_per_tok",
        "swiglu_limit": "swiglu_limit",
    },
    gguf_keys={
        **llama.GGUF_KEYS,
        "d_ff": "expert_feed_forward_length",
        "n_experts": "expert_count",
        "n_active": "expert_used_count",
    },
    hf_defaults={
        "head_dim": 64,
        "n_kv_heads": 8,
        "max_seq_len": 131072,
        "rope_theta": 150000.0,
        "rope_scaling": _SCALING,
        "norm_eps": 1e-5,
        "tie_embeddings": False,
        "qkv_bias": True,
        "o_bias": True,
        "sliding_window": 128,
        "n_experts": 128,
        "n_active": 4,
    },
    hf_allowed={"swiglu_alpha": (_ALPHA,), "hidden_act": ("silu",)},
    gguf_defaults={"yarn_truncate": False},
)
