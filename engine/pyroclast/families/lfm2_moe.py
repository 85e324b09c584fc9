"""LFM2 with experts: LFM2's layers, of which all but the first few have experts, chosen by the
sigmoid of the router's logits plus a bias that is none of the gates'."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import GATING_FUNCTIONS, GGUF_EXPERTS, ExpertsSpec, Scoring
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import FeedForwardSpec
from pyroclast.families.lfm2 import LFM2, layers

_SCORINGS: dict[object, Scoring] = {number: name for name, number in GATING_FUNCTIONS.items()}
# What only LFM2's dense folders have: a width to be computed, and attention layers by number.
_DENSE_KEYS = ("adjusts_d_ff", "d_ff_multiple", "d_ff_multiplier", "attention_layers")
_HF = "model.layers.{i}.feed_forward."


def _scoring(h: Hyperparameters) -> Scoring:
    number = h.extra.get("gating", 2)
    if type(number) is not int or number not in _SCORINGS:
        raise UnsupportedModelError(
            f"expert_gating_func must be 1 (softmax) or 2 (sigmoid), got {number!r}"
        )
    return _SCORINGS[number]


def _dense_layers(h: Hyperparameters) -> set[int]:
    """Folders give their number, GGUF files are searched for them."""
    found: list[int] | None = h.extra.get("dense_layers")
    if found is not None:
        return set(found)
    n_dense = h.extra.get("n_dense_layers", 2)
    if type(n_dense) is not int or not 0 <= n_dense <= h.n_layers:
        raise ModelFileError(
            f"num_dense_layers must be a whole number in 0..{h.n_layers}, got {n_dense!r}"
        )
    return set(range(n_dense))


def config(h: Hyperparameters) -> ModelConfig:
    """n_layers of LFM2's; transformers adds 1e-6 to the sum that divides the gates."""
    experts = ExpertsSpec(
        h.extra.get("n_experts", 32),
        h.extra.get("n_active", 4),
        scoring=_scoring(h),
        renormalize=h.flag("renormalizes", True),
        scale=h.positive("experts_scale", 1.0),
        selection_bias=h.flag("selects_with_bias", True),
    )
    ffn = FeedForwardSpec(h.extra.get("d_expert", 1792), h.activation, experts=experts)
    dense = _dense_layers(h)
    return h.config(
        spec if i in dense else replace(spec, ffn=ffn) for i, spec in enumerate(layers(h))
    )


LFM2_MOE = replace(
    LFM2,
    name="lfm2_moe",
    config=config,
    hf_model_type="lfm2_moe",
    gguf_architecture="lfm2moe",
    hf_tensors={
        **LFM2.hf_tensors,
        "layers.{i}.w_router": _HF + "gate.weight",
        "layers.{i}.b_selection": _HF + "expert_bias",
        "layers.{i}.w_gate_experts": _HF + "experts.{e}.w1.weight",
        "layers.{i}.w_up_experts": _HF + "experts.{e}.w3.weight",
        "layers.{i}.w_down_experts": _HF + "experts.{e}.w2.weight",
    },
    # As transformers 5 has them in memory; it writes the others.
    hf_fused={
        _HF + "experts.gate_up_proj": ("w_gate_experts", "w_up_experts"),
        _HF + "experts.down_proj": ("w_down_experts",),
    },
    gguf_tensors={
        **LFM2.gguf_tensors,
        **GGUF_EXPERTS,
        "layers.{i}.b_selection": "blk.{i}.exp_probs_b.bias",
    },
    hf_keys={
        **{field: key for field, key in LFM2.hf_keys.items() if field not in _DENSE_KEYS},
        "n_experts": "num_experts",
        "n_active": "num_experts_per_tok",
        "d_expert": "moe_intermediate_size",
        "n_dense_layers": "num_dense_layers",
        "renormalizes": "norm_topk_prob",
        "experts_scale": "routed_scaling_factor",
        "selects_with_bias": "use_expert_bias",
    },
    gguf_keys={
        **LFM2.gguf_keys,
        "n_experts": "expert_count",
        "n_active": "expert_used_count",
        "d_expert": "expert_feed_forward_length",
        "gating": "expert_gating_func",
    },
    hf_defaults={
        field: value for field, value in LFM2.hf_defaults.items() if field != "adjusts_d_ff"
    },
    hf_renamed={"tie_embedding": "tie_word_embeddings"},
)
