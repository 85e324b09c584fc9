"""GPT-2: LayerNorm with biases, learned positions, a feed-forward without a gate; folders store
matrices as (in, out)."""

from __future__ import annotations

import math
from dataclasses import replace

from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import AttentionSpec, FeedForwardSpec, LayerSpec, NormSpec


def _scale(h: Hyperparameters, i: int) -> float | None:
    """Of layer i's attention scores; None is the usual one."""
    by_size = h.flag("scale_attn_weights", True)
    by_layer = h.flag("scale_attn_by_inverse_layer_idx", False)
    if by_size and not by_layer:
        return None
    scale = 1 / math.sqrt(h.head_dim) if by_size else 1.0
    return scale / (i + 1) if by_layer else scale


def config(h: Hyperparameters) -> ModelConfig:
    """Pre-norm layers that rotate nothing; a table of max_seq_len positions."""
    norm = NormSpec(h.norm_eps, "layer", bias=True)
    attention = AttentionSpec(
        h.n_heads, h.n_kv_heads, h.head_dim, rope=None, qkv_bias=True, o_bias=True
    )
    ffn = FeedForwardSpec(h.d_ff, h.activation, gated=False, bias=True)
    layers = (
        LayerSpec(replace(attention, scale=_scale(h, i)), ffn, norm) for i in range(h.n_layers)
    )
    return h.config(layers, output_norm=norm, learned_positions=h.max_seq_len)


_HF, _GGUF = "transformer.h.{i}.", "blk.{i}."

GPT2 = Family(
    name="gpt2",
    config=config,
    hf_model_type="gpt2",
    gguf_architecture="gpt2",
    hf_tensors={
        "token_embd": "transformer.wte.weight",
        "position_embd": "transformer.wpe.weight",
        "output_norm": "transformer.ln_f.weight",
        "output_norm_bias": "transformer.ln_f.bias",
        "output": "lm_head.weight",
        "layers.{i}.attn_norm": _HF + "ln_1.weight",
        "layers.{i}.attn_norm_bias": _HF + "ln_1.bias",
        "layers.{i}.wo": _HF + "attn.c_proj.weight",
        "layers.{i}.bo": _HF + "attn.c_proj.bias",
        "layers.{i}.ffn_norm": _HF + "ln_2.weight",
        "layers.{i}.ffn_norm_bias": _HF + "ln_2.bias",
        "layers.{i}.w_up": _HF + "mlp.c_fc.weight",
        "layers.{i}.b_up": _HF + "mlp.c_fc.bias",
        "layers.{i}.w_down": _HF + "mlp.c_proj.weight",
        "layers.{i}.b_down": _HF + "mlp.c_proj.bias",
    },
    gguf_tensors={
        "token_embd": "token_embd.weight",
        "position_embd": "position_embd.weight",
        "output_norm": "output_norm.weight",
        "output_norm_bias": "output_norm.bias",
        "output": "output.weight",
        "layers.{i}.attn_norm": _GGUF + "attn_norm.weight",
        "layers.{i}.attn_norm_bias": _GGUF + "attn_norm.bias",
        "layers.{i}.wo": _GGUF + "attn_output.weight",
        "layers.{i}.bo": _GGUF + "attn_output.bias",
        "layers.{i}.ffn_norm": _GGUF + "ffn_norm.weight",
        "layers.{i}.ffn_norm_bias": _GGUF + "ffn_norm.bias",
        "layers.{i}.w_up": _GGUF + "ffn_up.weight",
        "layers.{i}.b_up": _GGUF + "ffn_up.bias",
        "layers.{i}.w_down": _GGUF + "ffn_down.weight",
        "layers.{i}.b_down": _GGUF + "ffn_down.bias",
    },
    hf_fused={
        _HF + "attn.c_attn.weight": ("wq", "wk", "wv"),
        _HF + "attn.c_attn.bias": ("bq", "bk", "bv"),
    },
    gguf_fused={
        _GGUF + "attn_qkv.weight": ("wq", "wk", "wv"),
        _GGUF + "attn_qkv.bias": ("bq", "bk", "bv"),
    },
    hf_transposed=frozenset({"wq", "wk", "wv", "wo", "w_up", "w_down"}),
    hf_keys={
        "n_layers": "n_layer",
        "n_heads": "n_head",
        "d_model": "n_embd",
        "d_ff": "n_inner",
        "vocab_size": "vocab_size",
        "max_seq_len": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "activation": "activation_function",
        "tie_embeddings": "tie_word_embeddings",
        "scale_attn_weights": "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx": "scale_attn_by_inverse_layer_idx",
    },
    gguf_keys={
        "n_layers": "block_count",
        "n_heads": "attention.head_count",
        "d_model": "embedding_length",
        "d_ff": "feed_forward_length",
        "vocab_size": "vocab_size",
        "max_seq_len": "context_length",
        "norm_eps": "attention.layer_norm_epsilon",
    },
    hf_defaults={
        "n_layers": 12,
        "n_heads": 12,
        "d_model": 768,
        "vocab_size": 50257,
        "max_seq_len": 1024,
        "rope_theta": 10000.0,
        "norm_eps": 1e-5,
        "activation": "gelu_new",
        "tie_embeddings": True,
    },
    gguf_defaults={"activation": "gelu_tanh"},
    hf_allowed={"add_cross_attention": (False,)},
    hf_d_ff_ratio=4,
)
