"""LFM2: gated short convolutions, and attention with norms of q and k in some layers."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.errors import ModelFileError
from pyroclast.families import llama
from pyroclast.families.checks import check_size
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import FeedForwardSpec, LayerSpec, NormSpec
from pyroclast.families.recurrent import ShortConvSpec


def _d_ff(h: Hyperparameters) -> int:
    """Folders give a size that two thirds of, rounded up, are the width of."""
    if not h.flag("adjusts_d_ff", False):
        return h.d_ff
    check_size("intermediate_size", h.d_ff, 1 << 30)
    multiple: int = h.extra.get("d_ff_multiple", 256)
    check_size("block_multiple_of", multiple, 1 << 20)
    width = int(h.positive("d_ff_multiplier", 1.0) * int(2 * h.d_ff / 3))
    return multiple * -(-width // multiple)


def _is_conv(h: Hyperparameters) -> tuple[bool, ...]:
    """Of each layer; without layer_types, full_attn_idxs lists those with attention."""
    if h.recurrent is not None:
        return h.recurrent
    listed = h.extra.get("attention_layers")
    if listed is None:
        return (False,) * h.n_layers
    if not isinstance(listed, list) or any(type(each) is not int for each in listed):
        raise ModelFileError(f"full_attn_idxs must be a list of layer numbers, got {listed!r}")
    return tuple(i not in listed for i in range(h.n_layers))


def layers(h: Hyperparameters) -> list[LayerSpec]:
    """Each layer, with a feed-forward for all tokens."""
    conv = ShortConvSpec(h.d_model, h.extra.get("conv_width", 3))
    ffn, norm = FeedForwardSpec(_d_ff(h), h.activation), NormSpec(h.norm_eps)
    found = []
    for i, is_conv in enumerate(_is_conv(h)):
        spec = replace(llama.layer(h, i, qk_norm=norm), ffn=ffn)
        found.append(replace(spec, mixer=conv) if is_conv else spec)
    return found


def config(h: Hyperparameters) -> ModelConfig:
    """n_layers of those."""
    return h.config(layers(h))


_HF, _GGUF = "model.layers.{i}.", "blk.{i}."

LFM2 = Family(
    name="lfm2",
    config=config,
    hf_model_type="lfm2",
    gguf_architecture="lfm2",
    is_recurrent=True,
    hf_tensors={
        "token_embd": "model.embed_tokens.weight",
        "output_norm": "model.embedding_norm.weight",
        "output": "lm_head.weight",
        "layers.{i}.attn_norm": _HF + "operator_norm.weight",
        "layers.{i}.wq": _HF + "self_attn.q_proj.weight",
        "layers.{i}.wk": _HF + "self_attn.k_proj.weight",
        "layers.{i}.wv": _HF + "self_attn.v_proj.weight",
        "layers.{i}.wo": _HF + "self_attn.out_proj.weight",
        "layers.{i}.q_norm": _HF + "self_attn.q_layernorm.weight",
        "layers.{i}.k_norm": _HF + "self_attn.k_layernorm.weight",
        "layers.{i}.w_conv_in": _HF + "conv.in_proj.weight",
        "layers.{i}.conv": _HF + "conv.conv.weight",
        "layers.{i}.w_conv_out": _HF + "conv.out_proj.weight",
        "layers.{i}.ffn_norm": _HF + "ffn_norm.weight",
        "layers.{i}.w_gate": _HF + "feed_forward.w1.weight",
        "layers.{i}.w_up": _HF + "feed_forward.w3.weight",
        "layers.{i}.w_down": _HF + "feed_forward.w2.weight",
    },
    gguf_tensors={
        name: each
        for name, each in llama.GGUF_TENSORS.items()
        if not name.rpartition(".")[2].startswith("b")
    }
    | {
        "output_norm": "token_embd_norm.weight",
        "layers.{i}.q_norm": _GGUF + "attn_q_norm.weight",
        "layers.{i}.k_norm": _GGUF + "attn_k_norm.weight",
        "layers.{i}.w_conv_in": _GGUF + "shortconv.in_proj.weight",
        "layers.{i}.conv": _GGUF + "shortconv.conv.weight",
        "layers.{i}.w_conv_out": _GGUF + "shortconv.out_proj.weight",
    },
    hf_keys={
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "vocab_size": "vocab_size",
        "max_seq_len": "max_position_embeddings",
        "rope_theta": "rope_theta",
        "norm_eps": "norm_eps",
        "tie_embeddings": "tie_word_embeddings",
        "recurrent": "layer_types",
        "attention_layers": "full_attn_idxs",
        "conv_width": "conv_L_cache",
        "adjusts_d_ff": "block_auto_adjust_ff_dim",
        "d_ff_multiple": "block_multiple_of",
        "d_ff_multiplier": "block_ffn_dim_multiplier",
    },
    gguf_keys={
        **{name: key for name, key in llama.GGUF_KEYS.items() if name != "sliding_window"},
        "conv_width": "shortconv.l_cache",
    },
    hf_defaults={
        "n_kv_heads": 8,
        "max_seq_len": 128_000,
        "rope_theta": 1e6,
        "norm_eps": 1e-5,
        "tie_embeddings": True,
        "adjusts_d_ff": True,
    },
    hf_allowed={"conv_bias": (False,)},
    hf_renamed={"block_ff_dim": "intermediate_size", "tie_embedding": "tie_word_embeddings"},
)
