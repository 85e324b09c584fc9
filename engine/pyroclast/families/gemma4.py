"""Gemma 4 (text): Gemma 3 with values that are normed too, larger heads in layers that see
everything, per-layer embeddings, and last layers that read the cache of earlier ones; or with
experts beside the feed-forward of each layer.

Norm weights are stored as they are.  In layers that see everything only the first pairs of a head
turn, at the frequencies of a head of which all do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families import gemma, llama
from pyroclast.families.checks import check_number, check_size
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import GGUF_EXPERTS, ExpertsSpec
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import (
    AttentionSpec,
    FeedForwardSpec,
    LayerInputSpec,
    LayerSpec,
    NormSpec,
)
from pyroclast.families.rope import NOT_ROTATED, RopeSpec

_PERIOD = 6  # where the file does not say: every sixth layer sees everything
_MAX_SIZE = 1 << 24
# What config.json may say of one layer: key -> field of Hyperparameters.
_OF_A_LAYER = {"head_dim": "head_dim", "num_key_value_heads": "n_kv_heads"}


def config(h: Hyperparameters) -> ModelConfig:
    """Layers with a window and without, in the order that the file has."""
    windowed = _windowed(h)
    sharing = cache_layers(h, windowed)
    return h.config(
        (_layer(h, i, windowed[i], sharing[i]) for i in range(h.n_layers)),
        embedding_scale=math.sqrt(h.d_model),
        logit_softcap=h.optional("logit_softcap"),
        layer_input=layer_input(h),
    )


def _windowed(h: Hyperparameters) -> tuple[bool, ...]:
    """Whether each layer has a window; the last one never has."""
    found = h.windowed or tuple((i + 1) % _PERIOD != 0 for i in range(h.n_layers))
    return (*found[:-1], False)


def cache_layers(h: Hyperparameters, windowed: tuple[bool, ...]) -> list[int | None]:
    """Whose cache each layer reads: the last ones that of the last layer of their kind before."""
    n_sharing = _whole(h, "n_sharing_layers", h.n_layers - 1)
    first = h.n_layers - n_sharing
    last = {windowed[i]: i for i in range(first)}
    for i in range(first, h.n_layers):
        if windowed[i] not in last:
            kind = "a window" if windowed[i] else "no window"
            raise ModelFileError(
                f"the last {n_sharing} layers read the cache of earlier ones, but layer {i} has "
                f"{kind}, as none of the first {first} layers has"
            )
    return [None if i < first else last[windowed[i]] for i in range(h.n_layers)]


def _layer(h: Hyperparameters, i: int, windowed: bool, cache_layer: int | None) -> LayerSpec:
    norm = NormSpec(h.norm_eps, weight_offset=h.norm_offset)
    n_kv_heads, head_dim = _heads(h, i, windowed)
    attention = AttentionSpec(
        n_heads=h.n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        rope=_window_rope(h) if windowed else _whole_rope(h, head_dim),
        window=h.sliding_window if windowed else None,
        qkv_bias=h.qkv_bias,
        o_bias=h.o_bias,
        scale=1.0,
        qk_norm=norm,
        v_norm=True,
        keys_are_values=not windowed and h.flag("keys_are_values", default=False),
        cache_layer=cache_layer,
    )
    ffn = _feed_forward(h, i, shares=cache_layer is not None)
    return LayerSpec(attention, ffn, norm, norm_after=True, out_scale=True)


def _feed_forward(h: Hyperparameters, i: int, *, shares: bool) -> FeedForwardSpec:
    """Of layer i, which shares the cache of another or does not; with experts, the feed-forward of
    a model without them is the one that all tokens share."""
    d_ff = h.of_layer("d_ff", i)
    check_size("d_ff", d_ff, _MAX_SIZE)
    d_ff *= 1 + (shares and h.flag("doubles_d_ff", default=False))
    if not h.flag("has_experts", default=h.extra.get("n_experts", 0) != 0):
        return FeedForwardSpec(d_ff, h.activation)
    experts = ExpertsSpec(
        h.extra.get("n_experts", 0),
        h.extra.get("n_active", 0),
        renormalize=True,
        shared_d_ff=d_ff,
        gate_scales=True,
        own_norms=True,
    )
    check_size("d_expert", d_expert := h.extra.get("d_expert", 0), _MAX_SIZE)
    return FeedForwardSpec(d_expert, h.activation, experts=experts)


def _heads(h: Hyperparameters, i: int, windowed: bool) -> tuple[int, int]:
    """(n_kv_heads, head_dim) of a layer: config.json may have an object for each that differs, or,
    as published, one size for all layers that see everything."""
    if (stated := h.extra.get("stated_layers")) is not None:
        return _stated_heads(h, stated, i)
    n_kv_heads = h.of_layer("n_kv_heads", i)
    if windowed:
        return n_kv_heads, h.head_dim
    if h.flag("keys_are_values", default=False):
        n_kv_heads = h.size("whole_n_kv_heads", n_kv_heads)
    return n_kv_heads, h.size("whole_head_dim", h.head_dim)


def _stated_heads(h: Hyperparameters, stated: Any, i: int) -> tuple[int, int]:
    own = stated.get(str(i), {}) if isinstance(stated, dict) else None
    if not isinstance(own, dict):
        raise ModelFileError(
            "per_layer_config must be an object with one for each layer that differs, got "
            f"{stated!r:.100}"
        )
    if unknown := sorted(set(own) - set(_OF_A_LAYER)):
        raise UnsupportedModelError(
            f"per_layer_config of layer {i} has {', '.join(map(repr, unknown))}; supported: "
            + ", ".join(_OF_A_LAYER)
        )
    sizes = {field: own.get(key, getattr(h, field)) for key, field in _OF_A_LAYER.items()}
    return sizes["n_kv_heads"], sizes["head_dim"]


def _window_rope(h: Hyperparameters) -> RopeSpec:
    """Of a layer with a window."""
    rotary_dim = h.size("window_rotary_dim", h.head_dim)
    return replace(h.window_rope, rotary_dim=None if rotary_dim == h.head_dim else rotary_dim)


def _whole_rope(h: Hyperparameters, head_dim: int) -> RopeSpec:
    """Of a layer that sees everything."""
    if h.rope_freq_factors is not None or h.extra.get("rope_kind") != "proportional":
        return h.rope
    share = h.extra.get("rotary_share")
    share = 1.0 if share is None else share
    check_number("partial_rotary_factor", share, 0.0, 1.0)
    check_size("head_dim", head_dim, _MAX_SIZE)
    n_turning = int(share * head_dim // 2)
    factors = (1.0,) * n_turning + (NOT_ROTATED,) * (head_dim // 2 - n_turning)
    return replace(h.rope, freq_factors=factors)


def layer_input(h: Hyperparameters) -> LayerInputSpec | None:
    """What the file says of per-layer embeddings; None where it has none."""
    width = _whole(h, "layer_input_width", _MAX_SIZE)
    if not width:
        return None
    n_rows = h.extra.get("layer_input_rows", h.vocab_size)
    return LayerInputSpec(width, n_rows, h.activation)


def _whole(h: Hyperparameters, name: str, limit: int) -> int:
    """A whole number of `extra` in 0..limit; where there is none, 0."""
    value = h.extra.get(name)
    if value is None or (value == 0 and value is not False):
        return 0
    check_size(name, value, limit)
    return int(value)


# Of a layer's input of the token itself.
HF_INPUT = {
    "layers.{i}.w_input_gate": "model.layers.{i}.per_layer_input_gate.weight",
    "layers.{i}.w_input": "model.layers.{i}.per_layer_projection.weight",
    "layers.{i}.input_norm_after": "model.layers.{i}.post_per_layer_input_norm.weight",
}
GGUF_INPUT = {
    "layers.{i}.w_input_gate": "blk.{i}.inp_gate.weight",
    "layers.{i}.w_input": "blk.{i}.proj.weight",
    "layers.{i}.input_norm_after": "blk.{i}.post_norm.weight",
}
_HF_LAYER = {
    **HF_INPUT,
    "layers.{i}.out_scale": "model.layers.{i}.layer_scalar",
    "layers.{i}.w_router": "model.layers.{i}.router.proj.weight",
    "layers.{i}.router_norm": "model.layers.{i}.router.scale",
    "layers.{i}.gate_scales": "model.layers.{i}.router.per_expert_scale",
    "layers.{i}.w_down_experts": "model.layers.{i}.experts.down_proj",
    "layers.{i}.experts_norm": "model.layers.{i}.pre_feedforward_layernorm_2.weight",
    "layers.{i}.experts_norm_after": "model.layers.{i}.post_feedforward_layernorm_2.weight",
    "layers.{i}.shared_norm_after": "model.layers.{i}.post_feedforward_layernorm_1.weight",
}
_HF_FUSED = {"model.layers.{i}.experts.gate_up_proj": ("w_gate_experts", "w_up_experts")}
_GGUF_LAYER = {
    **GGUF_INPUT,
    "layers.{i}.out_scale": "blk.{i}.layer_output_scale.weight",
    **GGUF_EXPERTS,
    "layers.{i}.router_norm": "blk.{i}.ffn_gate_inp.scale",
    "layers.{i}.gate_scales": "blk.{i}.ffn_down_exps.scale",
    "layers.{i}.experts_norm": "blk.{i}.pre_ffw_norm_2.weight",
    "layers.{i}.experts_norm_after": "blk.{i}.post_ffw_norm_2.weight",
    "layers.{i}.shared_norm_after": "blk.{i}.post_ffw_norm_1.weight",
}
# As published; llama.cpp reads gate and up of experts apart, too.
_GGUF_FUSED = {"blk.{i}.ffn_gate_up_exps.weight": ("w_gate_experts", "w_up_experts")}
HF_MODEL = {
    "layer_embd": "model.embed_tokens_per_layer.weight",
    "w_layer_inputs": "model.per_layer_model_projection.weight",
    "layer_input_norm": "model.per_layer_projection_norm.weight",
}
GGUF_MODEL = {
    "layer_embd": "per_layer_token_embd.weight",
    "w_layer_inputs": "per_layer_model_proj.weight",
    "layer_input_norm": "per_layer_proj_norm.weight",
}

GEMMA4 = replace(
    gemma.GEMMA3,
    name="gemma4_text",
    config=config,
    hf_model_type="gemma4_text",
    gguf_architecture="gemma4",
    hf_tensors={**gemma.GEMMA3.hf_tensors, **_HF_LAYER, **HF_MODEL},
    gguf_tensors={**gemma.GEMMA3.gguf_tensors, **_GGUF_LAYER, **GGUF_MODEL},
    hf_fused=_HF_FUSED,
    gguf_fused=_GGUF_FUSED,
    hf_keys={
        **{field: key for field, key in llama.HF_KEYS.items() if field != "ffn_bias"},
        "activation": "hidden_activation",
        "sliding_window": "sliding_window",
        "windowed": "layer_types",
        "logit_softcap": "final_logit_softcapping",
        "whole_head_dim": "global_head_dim",
        "whole_n_kv_heads": "num_global_key_value_heads",
        "stated_layers": "per_layer_config",
        "keys_are_values": "attention_k_eq_v",
        "n_sharing_layers": "num_kv_shared_layers",
        "doubles_d_ff": "use_double_wide_mlp",
        "layer_input_width": "hidden_size_per_layer_input",
        "layer_input_rows": "vocab_size_per_layer_input",
        "has_experts": "enable_moe_block",
        "n_experts": "num_experts",
        "n_active": "top_k_experts",
        "d_expert": "moe_intermediate_size",
    },
    gguf_keys={
        **llama.GGUF_KEYS,
        "windowed": "attention.sliding_window_pattern",
        "window_rope_theta": "rope.freq_base_swa",
        "logit_softcap": "final_logit_softcapping",
        "head_dim": "attention.key_length_swa",
        "whole_head_dim": "attention.key_length",
        "window_rotary_dim": "rope.dimension_count_swa",
        "n_sharing_layers": "attention.shared_kv_layers",
        "layer_input_width": "embedding_length_per_layer_input",
        "n_experts": "expert_count",
        "n_active": "expert_used_count",
        "d_expert": "expert_feed_forward_length",
    },
    gguf_of_layers=frozenset({"n_kv_heads", "d_ff"}),
    hf_rope_keys={"rotary_share": "partial_rotary_factor", "rope_kind": "rope_type"},
    hf_defaults={
        "n_layers": 30,
        "n_heads": 8,
        "n_kv_heads": 4,
        "head_dim": 256,
        "d_model": 2304,
        "d_ff": 9216,
        "vocab_size": 262144,
        "max_seq_len": 131072,
        "norm_eps": 1e-6,
        "tie_embeddings": True,
        "activation": "gelu_pytorch_tanh",
        "sliding_window": 512,
        "rope_theta": 1e6,
        "window_rope_theta": 10000.0,
        "rope_kind": "proportional",
        "rotary_share": 0.25,
        "whole_head_dim": 512,
        "layer_input_width": 256,
        "layer_input_rows": 262144,
        "has_experts": False,
    },
    gguf_defaults={**gemma.GEMMA3.gguf_defaults, "n_experts": 0, "n_active": 0},
    hf_allowed={"use_bidirectional_attention": ("vision",)},
)
