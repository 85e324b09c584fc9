"""StarCoder2: LayerNorm with biases, biases on every product, a feed-forward without a gate, and
rotary positions."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import LayerSpec, NormSpec


def config(h: Hyperparameters) -> ModelConfig:
    """Llama's layers with those parts in place of its own."""
    norm = NormSpec(h.norm_eps, "layer", bias=True)

    def layer(i: int) -> LayerSpec:
        spec = llama.layer(h, i)
        return replace(spec.with_ffn(gated=False), norm=norm)

    return h.config((layer(i) for i in range(h.n_layers)), output_norm=norm)


_LAYER = "model.layers.{i}."

STARCODER2 = replace(
    llama.FAMILY,
    name="starcoder2",
    config=config,
    hf_model_type="starcoder2",
    gguf_architecture="starcoder2",
    gguf_paired=frozenset(),
    hf_tensors=llama.HF_TENSORS
    | {
        "output_norm_bias": "model.norm.bias",
        "layers.{i}.attn_norm_bias": _LAYER + "input_layernorm.bias",
        "layers.{i}.ffn_norm_bias": _LAYER + "post_attention_layernorm.bias",
        "layers.{i}.w_up": _LAYER + "mlp.c_fc.weight",
        "layers.{i}.b_up": _LAYER + "mlp.c_fc.bias",
        "layers.{i}.w_down": _LAYER + "mlp.c_proj.weight",
        "layers.{i}.b_down": _LAYER + "mlp.c_proj.bias",
    },
    gguf_tensors=llama.GGUF_TENSORS
    | {
        "output_norm_bias": "output_norm.bias",
        "layers.{i}.attn_norm_bias": "blk.{i}.attn_norm.bias",
        "layers.{i}.ffn_norm_bias": "blk.{i}.ffn_norm.bias",
    },
    hf_keys={
        **llama.HF_KEYS,
        "norm_eps": "norm_epsilon",
        "qkv_bias": "use_bias",
        "o_bias": "use_bias",
        "ffn_bias": "use_bias",
        "sliding_window": "sliding_window",
    },
    gguf_keys={**llama.GGUF_KEYS, "norm_eps": "attention.layer_norm_epsilon"},
    hf_defaults={
        "n_kv_heads": 2,
        "max_seq_len": 4096,
        "rope_theta": 10000.0,
        "norm_eps": 1e-5,
        "activation": "gelu_pytorch_tanh",
        "tie_embeddings": True,
        "qkv_bias": True,
        "o_bias": True,
        "ffn_bias": True,
        "sliding_window": None,
    },
    gguf_defaults={"activation": "gelu_tanh"},
)
