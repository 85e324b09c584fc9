"""Qwen2, Qwen2.5 and Qwen3: Llama with a window that has to be switched on.  Qwen2 has biases on
q, k and v; Qwen3 norms each head of q and k, and states head_dim, dense or with experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pyroclast.errors import ModelFileError
from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import GGUF_EXPERTS, ExpertsSpec
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import FeedForwardSpec, LayerSpec, NormSpec


def _windows(h: Hyperparameters) -> Iterator[int | None]:
    """Of each layer.  Where the file has no list of layers, the first max_window_layers see
    everything (yes, those)."""
    first = h.extra.get("max_window_layers", 28)
    if not isinstance(first, int) or isinstance(first, bool):
        raise ModelFileError(f"max_window_layers must be a whole number, got {first!r}")
    for i in range(h.n_layers):
        yield h.window_of(i) if h.windowed is not None or i >= first else None


def qwen2_config(h: Hyperparameters) -> ModelConfig:
    """Llama's layers with those windows."""
    return h.config(llama.layer(h, i, window=window) for i, window in enumerate(_windows(h)))


def qwen3_config(h: Hyperparameters) -> ModelConfig:
    """The same with norms of q and k."""
    norm = NormSpec(h.norm_eps)
    return h.config(
        llama.layer(h, i, window=window, qk_norm=norm) for i, window in enumerate(_windows(h))
    )


QWEN2 = replace(
    llama.FAMILY,
    name="qwen2",
    config=qwen2_config,
    hf_model_type="qwen2",
    gguf_architecture="qwen2",
    gguf_paired=frozenset(),
    hf_keys={
        **{field: key for field, key in llama.HF_KEYS.items() if not field.endswith("bias")},
        "sliding_window": "sliding_window",
        "windowed": "layer_types",
        "max_window_layers": "max_window_layers",
    },
    # GGUF files have no word on windows, and llama.cpp knows none here.
    gguf_keys={field: key for field, key in llama.GGUF_KEYS.items() if field != "sliding_window"},
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "n_kv_heads": 32,
        "max_seq_len": 32768,
        "qkv_bias": True,
        "sliding_window": 4096,
    },
    hf_window_key="use_sliding_window",
)

QWEN3 = replace(
    QWEN2,
    name="qwen3",
    config=qwen3_config,
    hf_model_type="qwen3",
    gguf_architecture="qwen3",
    hf_tensors=llama.HF_TENSORS
    | {
        "layers.{i}.q_norm": "model.layers.{i}.self_attn.q_norm.weight",
        "layers.{i}.k_norm": "model.layers.{i}.self_attn.k_norm.weight",
    },
    gguf_tensors=llama.GGUF_TENSORS
    | {
        "layers.{i}.q_norm": "blk.{i}.attn_q_norm.weight",
        "layers.{i}.k_norm": "blk.{i}.attn_k_norm.weight",
    },
    hf_keys={**QWEN2.hf_keys, "qkv_bias": "attention_bias", "o_bias": "attention_bias"},
    hf_defaults={**QWEN2.hf_defaults, "head_dim": 128, "qkv_bias": False},
)


def _is_dense(h: Hyperparameters, i: int) -> bool:
    """Whether layer i has one feed-forward for all tokens."""
    dense = h.extra.get("dense_layers") or []
    if not isinstance(dense, list) or any(type(each) is not int for each in dense):
        raise ModelFileError(f"mlp_only_layers must be a list of layer numbers, got {dense!r}")
    return i in dense or (i + 1) % h.size("sparse_step", 1) != 0


def qwen3_moe_config(h: Hyperparameters) -> ModelConfig:
    """Qwen3's layers, most of them with experts; a window counts for all."""
    experts = ExpertsSpec(
        h.extra.get("n_experts", 128),
        h.extra.get("n_active", 8),
        renormalize=h.flag("renormalizes", False),
    )
    ffn = FeedForwardSpec(h.extra.get("d_expert", 768), h.activation, experts=experts)

    def layer(i: int) -> LayerSpec:
        spec = llama.layer(h, i, qk_norm=NormSpec(h.norm_eps))
        return spec if _is_dense(h, i) else replace(spec, ffn=ffn)

    return h.config(layer(i) for i in range(h.n_layers))


QWEN3_MOE = replace(
    QWEN3,
    name="qwen3_moe",
    config=qwen3_moe_config,
    hf_model_type="qwen3_moe",
    gguf_architecture="qwen3moe",
    hf_tensors={
        **QWEN3.hf_tensors,
        "layers.{i}.w_router": "model.layers.{i}.mlp.gate.weight",
        "layers.{i}.w_gate_experts": "model.layers.{i}.mlp.experts.{e}.gate_proj.weight",
        "layers.{i}.w_up_experts": "model.layers.{i}.mlp.experts.{e}.up_proj.weight",
        "layers.{i}.w_down_experts": "model.layers.{i}.mlp.experts.{e}.down_proj.weight",
    },
    # As transformers 5 has them in memory; it writes the others.
    hf_fused={
        "model.layers.{i}.mlp.experts.gate_up_proj": ("w_gate_experts", "w_up_experts"),
        "model.layers.{i}.mlp.experts.down_proj": ("w_down_experts",),
    },
    gguf_tensors={**QWEN3.gguf_tensors, **GGUF_EXPERTS},
    hf_keys={
        **{
            field: key
            for field, key in QWEN3.hf_keys.items()
            if field not in ("windowed", "max_window_layers")
        },
        "n_experts": "num_experts",
        "n_active": "num_experts_per_tok",
        "d_expert": "moe_intermediate_size",
        "renormalizes": "norm_topk_prob",
        "dense_layers": "mlp_only_layers",
        "sparse_step": "decoder_sparse_step",
    },
    gguf_keys={
        **QWEN3.gguf_keys,
        "n_experts": "expert_count",
        "n_active": "expert_used_count",
        "d_expert": "expert_feed_forward_length",
    },
    hf_defaults={
        **{field: value for field, value in QWEN3.hf_defaults.items() if field != "head_dim"},
        "n_kv_heads": 4,
    },
    hf_renamed={"num_local_experts": "num_experts"},
    gguf_defaults={"renormalizes": True},
)
