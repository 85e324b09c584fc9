"""Nemotron-H and Nemotron 3 Nano: each layer is a Mamba 2 mixer, attention without positions, or a
feed-forward that squares a ReLU, alone; in Nemotron 3 with experts and a shared one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families import llama, mamba2
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import ExpertsSpec
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import FeedForwardSpec, LayerSpec

Kind = Literal["mamba", "attention", "mlp", "moe"]

# Of layers_block_type, and of hybrid_override_pattern.
_KINDS: dict[str, Kind] = {
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
    "mlp": "mlp",
    "moe": "moe",
    "M": "mamba",
    "*": "attention",
    "-": "mlp",
    "E": "moe",
}


def _kinds(h: Hyperparameters) -> list[Kind]:
    """Of each layer: folders list or spell them, GGUF files tell them by their widths."""
    listed = h.extra.get("layer_kinds") or h.extra.get("layer_pattern")
    if listed is None:
        return _kinds_by_width(h)
    if not isinstance(listed, list | str):
        raise ModelFileError(
            "layers_block_type must be a list of names, or hybrid_override_pattern a text, got "
            f"{listed!r:.100}"
        )
    unknown = [each for each in listed if not isinstance(each, str) or each not in _KINDS]
    if unknown:
        raise UnsupportedModelError(
            f"layers of type {unknown[0]!r:.100} are not supported; supported: {', '.join(_KINDS)}"
        )
    if len(listed) != h.n_layers:
        raise ModelFileError(
            f"the file says of {len(listed)} layers what they are, and that there are {h.n_layers}"
        )
    return [_KINDS[each] for each in listed]


def _kinds_by_width(h: Hyperparameters) -> list[Kind]:
    alone, recurrent = h.extra.get("ffn_alone"), h.recurrent
    if alone is None or recurrent is None or len(alone) != h.n_layers:
        raise ModelFileError(
            f"the file must say of each of the {h.n_layers} layers what it is: in "
            "hybrid_override_pattern, or by a width of its feed-forward and heads of keys for each"
        )
    ffn: Kind = "moe" if "n_experts" in h.extra else "mlp"
    pairs = zip(alone, recurrent, strict=True)
    return [ffn if wide else "mamba" if state else "attention" for wide, state in pairs]


def _experts(h: Hyperparameters) -> FeedForwardSpec:
    """Chosen by the sigmoid of the router's logits plus a bias that is none of the gates'."""
    n_groups = h.extra.get("n_expert_groups", 1)
    if n_groups != 1:
        raise UnsupportedModelError(
            f"experts in {n_groups!r} groups are not supported; supported: 1"
        )
    if h.extra.get("d_latent") is not None:
        raise UnsupportedModelError(
            f"experts in a space of {h.extra['d_latent']!r} dimensions of their own are not "
            "supported"
        )
    experts = ExpertsSpec(
        h.extra.get("n_experts", 8),
        h.extra.get("n_active", 2),
        scoring="sigmoid",
        renormalize=h.flag("renormalizes", True),
        scale=h.positive("experts_scale", 1.0),
        selection_bias=True,
        shared_d_ff=h.extra.get("d_shared", 7688),
    )
    width = h.extra.get("d_expert", 7688)
    return FeedForwardSpec(width, h.activation, gated=False, experts=experts)


def config(h: Hyperparameters) -> ModelConfig:
    """n_layers of one part each."""
    kinds, mixer = _kinds(h), mamba2.mixer_of(h)
    moe = _experts(h) if "moe" in kinds else None

    def layer(i: int, kind: Kind) -> LayerSpec:
        spec = llama.layer(h, i, rope=None).with_ffn(gated=False)
        if kind == "moe":
            return replace(spec, mixer=None, ffn=moe)
        if kind == "mlp":
            return replace(spec, mixer=None)
        return replace(spec, ffn=None, mixer=mixer if kind == "mamba" else spec.mixer)

    return h.config(layer(i, kind) for i, kind in enumerate(kinds))


def _has_experts(config: Mapping[str, Any]) -> bool:
    """Whether a config.json lists a layer with experts."""
    kinds = config.get("layers_block_type") or config.get("hybrid_override_pattern")
    return isinstance(kinds, list | str) and ("moe" in kinds or "E" in kinds)


_HF, _GGUF = "backbone.layers.{i}.mixer.", "blk.{i}."
_SHARED = {"w_up": "shared_experts.up_proj", "w_down": "shared_experts.down_proj"}

NEMOTRON_H = Family(
    name="nemotron_h",
    config=config,
    hf_model_type="nemotron_h",
    gguf_architecture="nemotron_h",
    is_recurrent=True,
    parts_alone=True,
    gguf_paired=frozenset({"wq", "wk"}),
    gguf_flat=mamba2.GGUF_FLAT,
    hf_tensors={
        "token_embd": "backbone.embeddings.weight",
        "output_norm": "backbone.norm_f.weight",
        "output": "lm_head.weight",
        "layers.{i}.norm": "backbone.layers.{i}.norm.weight",
        **mamba2.hf_tensors(_HF),
        "layers.{i}.wq": _HF + "q_proj.weight",
        "layers.{i}.wk": _HF + "k_proj.weight",
        "layers.{i}.wv": _HF + "v_proj.weight",
        "layers.{i}.wo": _HF + "o_proj.weight",
        "layers.{i}.w_up": _HF + "up_proj.weight",
        "layers.{i}.w_down": _HF + "down_proj.weight",
    },
    gguf_tensors={
        "token_embd": "token_embd.weight",
        "output_norm": "output_norm.weight",
        "output": "output.weight",
        "layers.{i}.norm": _GGUF + "attn_norm.weight",
        **mamba2.GGUF_TENSORS,
        "layers.{i}.wq": _GGUF + "attn_q.weight",
        "layers.{i}.wk": _GGUF + "attn_k.weight",
        "layers.{i}.wv": _GGUF + "attn_v.weight",
        "layers.{i}.wo": _GGUF + "attn_output.weight",
        "layers.{i}.w_up": _GGUF + "ffn_up.weight",
        "layers.{i}.w_down": _GGUF + "ffn_down.weight",
    },
    hf_keys={
        "n_layers": "num_hidden_layers",
        "layer_kinds": "layers_block_type",
        "layer_pattern": "hybrid_override_pattern",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "vocab_size": "vocab_size",
        "max_seq_len": "max_position_embeddings",
        "norm_eps": "layer_norm_epsilon",
        "tie_embeddings": "tie_word_embeddings",
        "activation": "mlp_hidden_act",
        "n_ssm_heads": "mamba_num_heads",
        "ssm_head_dim": "mamba_head_dim",
        "n_ssm_groups": "n_groups",
        "d_state": "ssm_state_size",
        "conv_width": "conv_kernel",
        "conv_bias": "use_conv_bias",
        "dt_limits": "time_step_limit",
    },
    gguf_keys={
        **{
            field: key
            for field, key in llama.GGUF_KEYS.items()
            if field not in ("sliding_window", "rope_theta")
        },
        **mamba2.GGUF_KEYS,
    },
    hf_defaults={
        "n_kv_heads": 8,
        "head_dim": 128,
        "max_seq_len": 4096,
        "rope_theta": 10000.0,
        "norm_eps": 1e-5,
        "tie_embeddings": False,
        "activation": "relu2",
        "n_ssm_heads": 128,
        "ssm_head_dim": 64,
        "n_ssm_groups": 8,
        "d_state": 128,
    },
    gguf_defaults={"activation": "relu2", "log_decay": False},
    hf_allowed={
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_bias": (False,),
        "mamba_hidden_act": ("silu",),
    },
    hf_renamed={"attention_head_dim": "head_dim"},
)

NEMOTRON_H_MOE = replace(
    NEMOTRON_H,
    name="nemotron_h_moe",
    hf_condition=_has_experts,
    gguf_architecture="nemotron_h_moe",
    hf_tensors={
        **{
            name: each
            for name, each in NEMOTRON_H.hf_tensors.items()
            if name.rpartition(".")[2] not in _SHARED
        },
        "layers.{i}.w_router": _HF + "gate.weight",
        "layers.{i}.b_selection": _HF + "gate.e_score_correction_bias",
        "layers.{i}.w_up_experts": _HF + "experts.{e}.up_proj.weight",
        "layers.{i}.w_down_experts": _HF + "experts.{e}.down_proj.weight",
    },
    hf_fused={
        # As transformers 5 has them in memory; it writes the others.
        _HF + "experts.up_proj": ("w_up_experts",),
        _HF + "experts.down_proj": ("w_down_experts",),
        # Layers without experts call them by the other names.
        **{f"{_HF}{shared}.weight": (name,) for name, shared in _SHARED.items()},
        **{NEMOTRON_H.hf_tensors[f"layers.{{i}}.{name}"]: (name,) for name in _SHARED},
    },
    gguf_tensors={
        **NEMOTRON_H.gguf_tensors,
        "layers.{i}.w_router": _GGUF + "ffn_gate_inp.weight",
        "layers.{i}.b_selection": _GGUF + "exp_probs_b.bias",
        "layers.{i}.w_up_experts": _GGUF + "ffn_up_exps.weight",
        "layers.{i}.w_down_experts": _GGUF + "ffn_down_exps.weight",
        "layers.{i}.w_up": _GGUF + "ffn_up_shexp.weight",
        "layers.{i}.w_down": _GGUF + "ffn_down_shexp.weight",
    },
    hf_keys={
        **NEMOTRON_H.hf_keys,
        "n_experts": "n_routed_experts",
        "n_active": "num_experts_per_tok",
        "d_expert": "moe_intermediate_size",
        "d_shared": "moe_shared_expert_intermediate_size",
        "renormalizes": "norm_topk_prob",
        "experts_scale": "routed_scaling_factor",
        "n_expert_groups": "n_group",
        "d_latent": "moe_latent_size",
    },
    gguf_keys={
        **NEMOTRON_H.gguf_keys,
        "n_experts": "expert_count",
        "n_active": "expert_used_count",
        "d_expert": "expert_feed_forward_length",
        "d_shared": "expert_shared_feed_forward_length",
        "renormalizes": "expert_weights_norm",
        "experts_scale": "expert_weights_scale",
        "n_expert_groups": "expert_group_count",
        "d_latent": "moe_latent_size",
    },
    hf_renamed={**NEMOTRON_H.hf_renamed, "num_local_experts": "n_routed_experts"},
)
