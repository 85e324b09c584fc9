"""Model families as data: what each calls its sizes and its weights, in both file formats.

A family is one entry of FAMILIES.  The forward pass knows only ModelConfig and the canonical
tensor names, so a new family that fits them needs an entry here and nothing else.
`read_config` reads the tables; names from other projects appear only in this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyroclast.families.config import ModelConfig

# canonical name -> name in a Hugging Face folder; {i} is the layer
_HF_TENSORS = {
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
    "layers.{i}.ffn_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "layers.{i}.w_gate": "model.layers.{i}.mlp.gate_proj.weight",
    "layers.{i}.w_up": "model.layers.{i}.mlp.up_proj.weight",
    "layers.{i}.w_down": "model.layers.{i}.mlp.down_proj.weight",
}

# canonical name -> name in a GGUF file
_GGUF_TENSORS = {
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
    "layers.{i}.ffn_norm": "blk.{i}.ffn_norm.weight",
    "layers.{i}.w_gate": "blk.{i}.ffn_gate.weight",
    "layers.{i}.w_up": "blk.{i}.ffn_up.weight",
    "layers.{i}.w_down": "blk.{i}.ffn_down.weight",
}

# ModelConfig field -> key in config.json
_HF_KEYS = {
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
    "qkv_bias": "attention_bias",
    "sliding_window": "sliding_window",
}

# ModelConfig field -> key in a GGUF file's metadata, after the architecture's name and a dot
_GGUF_KEYS = {
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

# Tensors that carry nothing the forward pass needs: frequencies that follow from the config.
IGNORED_TENSOR_SUFFIXES = ("rotary_emb.inv_freq", "attn_rot_embd.weight", "rope_freqs.weight")
GGUF_ROPE_FREQS = "rope_freqs.weight"


@dataclass(frozen=True)
class Family:
    """One family: how files of both formats name it, its sizes and its weights.

    hf_defaults are the values that config.json may leave out.  hf_window_key, if any, is a
    switch without which config.json's sliding_window does not count.  In GGUF files,
    gguf_paired lists the tensors whose rows are ordered for rotary pairs (2i, 2i + 1); ours,
    and Hugging Face's, are (i, i + head_dim / 2).
    """

    name: str
    hf_model_type: str
    gguf_architecture: str | None
    gguf_paired: frozenset[str] = frozenset()
    hf_defaults: Mapping[str, Any] = field(default_factory=dict)
    hf_window_key: str | None = None
    hf_tensors: Mapping[str, str] = field(default_factory=lambda: _HF_TENSORS)
    gguf_tensors: Mapping[str, str] = field(default_factory=lambda: _GGUF_TENSORS)
    hf_keys: Mapping[str, str] = field(default_factory=lambda: _HF_KEYS)
    gguf_keys: Mapping[str, str] = field(default_factory=lambda: _GGUF_KEYS)


_PAIRED = frozenset({"wq", "wk", "bq", "bk"})
_NO_WINDOW = {"sliding_window": None}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        # Llama 2 and 3.x, SmolLM2, TinyLlama.
        Family(
            name="llama",
            hf_model_type="llama",
            gguf_architecture="llama",
            gguf_paired=_PAIRED,
            hf_defaults={
                "max_seq_len": 2048,
                "rope_theta": 10000.0,
                "norm_eps": 1e-6,
                "tie_embeddings": False,
                "qkv_bias": False,
                **_NO_WINDOW,
            },
        ),
        # In GGUF files Mistral is written as "llama".
        Family(
            name="mistral",
            hf_model_type="mistral",
            gguf_architecture=None,
            gguf_paired=_PAIRED,
            hf_defaults={
                "n_kv_heads": 8,
                "max_seq_len": 131072,
                "rope_theta": 10000.0,
                "norm_eps": 1e-6,
                "tie_embeddings": False,
                "qkv_bias": False,
                "sliding_window": 4096,
            },
        ),
        Family(
            name="qwen2",
            hf_model_type="qwen2",
            gguf_architecture="qwen2",
            hf_defaults={
                "max_seq_len": 32768,
                "rope_theta": 10000.0,
                "norm_eps": 1e-6,
                "tie_embeddings": False,
                "qkv_bias": True,
                "sliding_window": 4096,
            },
            hf_window_key="use_sliding_window",
        ),
    )
}


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every weight that a model of this config has, with {i} for
    the layer in the names of those that each layer has.
    """
    d_model, d_ff = config.d_model, config.d_ff
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (config.vocab_size, d_model),
        "output_norm": (d_model,),
        "output": (config.vocab_size, d_model),
        "layers.{i}.attn_norm": (d_model,),
        "layers.{i}.wq": (q_dim, d_model),
        "layers.{i}.wk": (kv_dim, d_model),
        "layers.{i}.wv": (kv_dim, d_model),
        "layers.{i}.bq": (q_dim,),
        "layers.{i}.bk": (kv_dim,),
        "layers.{i}.bv": (kv_dim,),
        "layers.{i}.wo": (d_model, q_dim),
        "layers.{i}.ffn_norm": (d_model,),
        "layers.{i}.w_gate": (d_ff, d_model),
        "layers.{i}.w_up": (d_ff, d_model),
        "layers.{i}.w_down": (d_model, d_ff),
    }
    if config.tie_embeddings:
        del shapes["output"]
    if not config.qkv_bias:
        for bias in ("bq", "bk", "bv"):
            del shapes[f"layers.{{i}}.{bias}"]
    return shapes
