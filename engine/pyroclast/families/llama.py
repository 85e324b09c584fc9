"""Llama 2 and 3.x, SmolLM2, TinyLlama: every layer alike.  Most later families build on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec

HF_TENSORS = {
    "token_embd": "model.embed_tokens.weight",
    "output_norm": "model.norm.weight",
    "output": "lm_head.weight",
    "layers.{i}.attn_norm": "model.layers.{i}.input_layernorm.weight",
    "layers.{i}.wq": "model.layers.{i}.self_attn.q_proj.weight",
    "layers.{i}.wk": "model.layers.{i}.self_attn.k_proj.weight",
    "layers.{i}.wv": "model.layers.{i}.self_attn.v_proj.weight",
    "layers.{i}.wo": "model.layers.{i}.self_attn.o_proj.weight",
    "layers.{i}.bq": "model.layers.{i}.self_attn.q_proj.bias",
    "layers.{i}.bk": "model.layers.{i}.self_attn.k_proj.bias",
    "layers.{i}.bv": "model.layers.{i}.self_attn.v_proj.bias",
    "layers.{i}.bo": "model.layers.{i}.self_attn.o_proj.bias",
    "layers.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "layers.{i}.w_gate": "model.layers.{i}.mlp.gate_proj.weight",
    "layers.{i}.w_up": "model.layers.{i}.mlp.up_proj.weight",
    "layers.{i}.w_down": "model.layers.{i}.mlp.down_proj.weight",
    "layers.{i}.b_gate": "model.layers.{i}.mlp.gate_proj.bias",
    "layers.{i}.b_up": "model.layers.{i}.mlp.up_proj.bias",
    "layers.{i}.b_down": "model.layers.{i}.mlp.down_proj.bias",
}

GGUF_TENSORS = {
    "token_embd": "token_embd.weight",
    "output_norm": "output_norm.weight",
    "output": "output.weight",
    "layers.{i}.attn_norm": "blk.{i}.attn_norm.weight",
    "layers.{i}.wq": "blk.{i}.attn_q.weight",
    "layers.{i}.wk": "blk.{i}.attn_k.weight",
    "layers.{i}.wv": "blk.{i}.attn_v.weight",
    "layers.{i}.wo": "blk.{i}.attn_output.weight",
    "layers.{i}.bq": "blk.{i}.attn_q.bias",
    "layers.{i}.bk": "blk.{i}.attn_k.bias",
    "layers.{i}.bv": "blk.{i}.attn_v.bias",
    "layers.{i}.bo": "blk.{i}.attn_output.bias",
    "layers.{i}.ffn_norm": "blk.{i}.ffn_norm.weight",
    "layers.{i}.w_gate": "blk.{i}.ffn_gate.weight",
    "layers.{i}.w_up": "blk.{i}.ffn_up.weight",
    "layers.{i}.w_down": "blk.{i}.ffn_down.weight",
    "layers.{i}.b_gate": "blk.{i}.ffn_gate.bias",
    "layers.{i}.b_up": "blk.{i}.ffn_up.bias",
    "layers.{i}.b_down": "blk.{i}.ffn_down.bias",
}

HF_KEYS = {
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_seq_len": "max_position_embeddings",
    "rope_theta": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "activation": "hidden_act",
    "qkv_bias": "attention_bias",
    "o_bias": "attention_bias",
    "ffn_bias": "mlp_bias",
}

GGUF_KEYS = {
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "d_model": "embedding_length",
    "d_ff": "feed_forward_length",
    "vocab_size": "vocab_size",
    "max_seq_len": "context_length",
    "rope_theta": "rope.freq_base",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "sliding_window": "attention.sliding_window",
}


def layer(h: Hyperparameters, i: int, **attention: Any) -> LayerSpec:
    """Layer i: pre-norm attention with rotary positions, and a gated feed-forward.  attention has
    fields of AttentionSpec that differ."""
    mixer = AttentionSpec(
        n_heads=h.n_heads,
        n_kv_heads=h.n_kv_heads,
        head_dim=h.head_dim,
        rope=h.rope,
        window=h.window_of(i),
        qkv_bias=h.qkv_bias,
        o_bias=h.o_bias,
    )
    return LayerSpec(
        replace(mixer, **attention),
        FeedForwardSpec(h.d_ff, h.activation, bias=h.ffn_bias),
        NormSpec(h.norm_eps, weight_offset=h.norm_offset),
    )


def config(h: Hyperparameters) -> ModelConfig:
    """n_layers of that layer."""
    return h.config(layer(h, i) for i in range(h.n_layers))


FAMILY = Family(
    name="llama",
    config=config,
    hf_model_type="llama",
    gguf_architecture="llama",
    hf_tensors=HF_TENSORS,
    gguf_tensors=GGUF_TENSORS,
    hf_keys=HF_KEYS,
    gguf_keys=GGUF_KEYS,
    gguf_paired=frozenset({"wq", "wk", "bq", "bk"}),
    hf_defaults={
        "max_seq_len": 2048,
        "rope_theta": 10000.0,
        "norm_eps": 1e-6,
        "tie_embeddings": False,
    },
)
