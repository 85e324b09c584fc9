"""Granite 4 with Mamba 2 layers (H Micro, H Tiny, H Small, 1B and 350M), with or without experts:
Granite's attention in a few layers, and a feed-forward that every token passes through, the shared
expert where there are others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyroclast.families import granite, mamba2
from pyroclast.families.checks import check_size
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import GGUF_EXPERTS, ExpertsSpec
from pyroclast.families.granite import GRANITE, GRANITE4, GRANITE_MOE
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import FeedForwardSpec, LayerSpec


def _ffn(h: Hyperparameters) -> FeedForwardSpec:
    """Of every layer.  Files without experts may state the width of the shared one alone."""
    shared = h.extra.get("d_shared", h.d_ff)
    if h.extra.get("n_experts") == 0:
        return FeedForwardSpec(shared, h.activation)
    experts = ExpertsSpec(
        h.extra.get("n_experts", 8),
        h.extra.get("n_active", 2),
        renormalize=True,
        shared_d_ff=shared,
    )
    return FeedForwardSpec(h.d_ff, h.activation, experts=experts)


def config(h: Hyperparameters) -> ModelConfig:
    """n_layers, of which those that are not said to have attention have a state."""
    if (expand := h.extra.get("expand")) is not None:  # of folders, which state no size
        check_size("mamba_expand", expand, 1 << 10)
        h = replace(h, extra={**h.extra, "ssm_dim": expand * h.d_model})
    mixer, ffn = mamba2.mixer_of(h), _ffn(h)
    attends = h.extra.get("attention_layers", ())  # of shapes without a file
    recurrent = h.recurrent or tuple(i not in attends for i in range(h.n_layers))
    if (kind := h.extra.get("position_embedding_type")) is not None:  # of folders, too
        h = replace(h, extra={**h.extra, "rotates": kind == "rope"})

    def layer(spec: LayerSpec, is_recurrent: bool) -> LayerSpec:
        return replace(spec, ffn=ffn, mixer=mixer if is_recurrent else spec.mixer)

    found = granite.config(h)
    return replace(found, layers=tuple(map(layer, found.layers, recurrent)))


def _is_hybrid(config: Mapping[str, Any]) -> bool:
    """Whether a config.json of the model type has what GRANITE4 has not."""
    kinds = config.get("layer_types")
    has_experts = config.get("num_local_experts", 8) != 0
    return has_experts or not isinstance(kinds, list) or "mamba" in kinds or _LINEAR in kinds


_LINEAR = "linear_attention"  # as transformers 5 calls a layer with a state
_HF = "model.layers.{i}."
_SHARED = ("w_gate", "w_up", "w_down")

GRANITE_HYBRID = replace(
    GRANITE,
    name="granitehybrid",
    config=config,
    hf_model_type="granitemoehybrid",
    hf_condition=_is_hybrid,
    gguf_architecture="granitehybrid",
    is_recurrent=True,
    hf_tensors={
        **GRANITE4.hf_tensors,
        **mamba2.hf_tensors(_HF + "mamba."),
        "layers.{i}.w_router": GRANITE_MOE.hf_tensors["layers.{i}.w_router"],
        "layers.{i}.w_down_experts": GRANITE_MOE.hf_tensors["layers.{i}.w_down_experts"],
    },
    hf_fused={**GRANITE4.hf_fused, **GRANITE_MOE.hf_fused},
    gguf_tensors={
        name: each
        for name, each in GRANITE.gguf_tensors.items()
        if name.rpartition(".")[2] not in _SHARED
    }
    | GGUF_EXPERTS
    | mamba2.GGUF_TENSORS,
    # Under the one name in files without experts, under the other in those that have them.
    gguf_fused={
        f"blk.{{i}}.ffn_{name[2:]}{kind}.weight": (name,)
        for kind in ("", "_shexp")
        for name in _SHARED
    },
    gguf_flat=mamba2.GGUF_FLAT,
    hf_keys={
        **{
            field: key
            for field, key in GRANITE4.hf_keys.items()
            if field not in ("activation", "qkv_bias", "o_bias")
        },
        "d_ff": "intermediate_size",
        "d_shared": "shared_intermediate_size",
        "recurrent": "layer_types",
        "n_experts": "num_local_experts",
        "n_active": "num_experts_per_tok",
        "n_ssm_heads": "mamba_n_heads",
        "n_ssm_groups": "mamba_n_groups",
        "ssm_head_dim": "mamba_d_head",
        "d_state": "mamba_d_state",
        "conv_width": "mamba_d_conv",
        "conv_bias": "mamba_conv_bias",
        "expand": "mamba_expand",
        "dt_limits": "time_step_limit",
    },
    gguf_keys={
        **GRANITE_MOE.gguf_keys,
        **mamba2.GGUF_KEYS,
    },
    hf_defaults={
        **GRANITE.hf_defaults,
        "position_embedding_type": "nope",
        "d_shared": 1024,
        "n_ssm_heads": 128,
        "n_ssm_groups": 1,
        "d_state": 256,
        "expand": 2,
    },
    gguf_defaults={"n_experts": 0, "n_active": 0, "log_decay": False},
    hf_allowed={
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mamba_proj_bias": (False,),
    },
)
