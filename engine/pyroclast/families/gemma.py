"""Gemma 2 and 3 (text): norms before and after each block, embeddings scaled by sqrt(d_model), a
tanh GELU, windows on most layers; Gemma 2 with softcaps, Gemma 3 with norms of q and k and a
rotary base of its own for windowed layers.

Folders store norm weights less 1; llama.cpp's converter adds the 1.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import LayerSpec, NormSpec

# GGUF files do not state the scale of attention scores, which is 1 / sqrt(head_dim) but for the
# largest model of each generation; llama.cpp knows it by the number of layers.
_N_LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}


def _scale(h: Hyperparameters) -> float | None:
    """Of attention scores; None is the usual one."""
    by_layers = h.n_layers == _N_LAYERS_OF_27B[h.family]
    usual = h.d_model / h.n_heads if by_layers else h.head_dim
    scalar = h.positive("query_pre_attn_scalar", usual)
    return None if scalar == h.head_dim else 1 / math.sqrt(scalar)


def _layer(h: Hyperparameters, i: int, *, period: int, qk_norm: NormSpec | None) -> LayerSpec:
    """Layer i of a model whose every period-th layer sees everything, if the file says nothing
    else."""
    window = h.window_of(i) if h.windowed is not None or (i + 1) % period else None
    spec = llama.layer(
        h,
        i,
        window=window,
        rope=h.rope if window is None or qk_norm is None else h.window_rope,
        scale=_scale(h),
        softcap=h.optional("attention_softcap"),
        qk_norm=qk_norm,
    )
    return replace(spec, norm_after=True)


def gemma2_config(h: Hyperparameters) -> ModelConfig:
    """Every second layer sees everything."""
    layers = (_layer(h, i, period=2, qk_norm=None) for i in range(h.n_layers))
    return h.config(
        layers,
        embedding_scale=math.sqrt(h.d_model),
        logit_softcap=h.optional("logit_softcap"),
    )


def gemma3_config(h: Hyperparameters) -> ModelConfig:
    """Every sixth layer sees everything."""
    period = h.size("sliding_window_pattern", 6)
    norm = NormSpec(h.norm_eps, weight_offset=h.norm_offset)
    layers = (_layer(h, i, period=period, qk_norm=norm) for i in range(h.n_layers))
    return h.config(
        layers,
        embedding_scale=math.sqrt(h.d_model),
        logit_softcap=h.optional("logit_softcap"),
    )


_HF_NORMS = {
    "layers.{i}.attn_norm": "model.layers.{i}.input_layernorm.weight",
    "layers.{i}.attn_norm_after": "model.layers.{i}.post_attention_layernorm.weight",
    "layers.{i}.ffn_norm": "model.layers.{i}.pre_feedforward_layernorm.weight",
    "layers.{i}.ffn_norm_after": "model.layers.{i}.post_feedforward_layernorm.weight",
    "layers.{i}.q_norm": "model.layers.{i}.self_attn.q_norm.weight",
    "layers.{i}.k_norm": "model.layers.{i}.self_attn.k_norm.weight",
}
_GGUF_NORMS = {
    "layers.{i}.attn_norm_after": "blk.{i}.post_attention_norm.weight",
    "layers.{i}.ffn_norm_after": "blk.{i}.post_ffw_norm.weight",
    "layers.{i}.q_norm": "blk.{i}.attn_q_norm.weight",
    "layers.{i}.k_norm": "blk.{i}.attn_k_norm.weight",
}

GEMMA2 = replace(
    llama.FAMILY,
    name="gemma2",
    config=gemma2_config,
    hf_model_type="gemma2",
    gguf_architecture="gemma2",
    gguf_paired=frozenset(),
    hf_tensors=llama.HF_TENSORS | _HF_NORMS,
    gguf_tensors=llama.GGUF_TENSORS | _GGUF_NORMS,
    hf_keys={
        **{field: key for field, key in llama.HF_KEYS.items() if field != "ffn_bias"},
        "activation": "hidden_activation",
        "sliding_window": "sliding_window",
        "windowed": "layer_types",
        "query_pre_attn_scalar": "query_pre_attn_scalar",
        "attention_softcap": "attn_logit_softcapping",
        "logit_softcap": "final_logit_softcapping",
    },
    gguf_keys={
        **llama.GGUF_KEYS,
        "windowed": "attention.sliding_window_pattern",
        "attention_softcap": "attn_logit_softcapping",
        "logit_softcap": "final_logit_softcapping",
    },
    hf_defaults={
        **llama.FAMILY.hf_defaults,
        "n_layers": 26,
        "n_heads": 8,
        "n_kv_heads": 4,
        "head_dim": 256,
        "d_model": 2304,
        "d_ff": 9216,
        "vocab_size": 256000,
        "max_seq_len": 8192,
        "activation": "gelu_pytorch_tanh",
        "norm_offset": 1.0,
        "tie_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attention_softcap": 50.0,
        "logit_softcap": 30.0,
    },
    hf_allowed={"use_bidirectional_attention": (False,)},
    gguf_defaults={
        "activation": "gelu_tanh",
        "sliding_window": 4096,
        "attention_softcap": 50.0,
        "logit_softcap": 30.0,
    },
)

GEMMA3 = replace(
    GEMMA2,
    name="gemma3_text",
    config=gemma3_config,
    hf_model_type="gemma3_text",
    gguf_architecture="gemma3",
    hf_keys={
        **GEMMA2.hf_keys,
        "window_rope_theta": "rope_local_base_freq",
        "sliding_window_pattern": "sliding_window_pattern",
    },
    gguf_keys={**GEMMA2.gguf_keys, "window_rope_theta": "rope.freq_base_swa"},
    hf_defaults={
        **GEMMA2.hf_defaults,
        "vocab_size": 262208,
        "max_seq_len": 131072,
        "rope_theta": 1e6,
        "window_rope_theta": 10000.0,
        "attention_softcap": None,
        "logit_softcap": None,
    },
    gguf_defaults={
        "activation": "gelu_tanh",
        "rope_theta": 1e6,
        "window_rope_theta": 10000.0,
    },
)
