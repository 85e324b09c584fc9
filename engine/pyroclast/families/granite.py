"""Granite 3, dense and with experts, and the dense models of Granite 4: Llama with four
multipliers."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.families import llama
from pyroclast.families.config import ModelConfig
from pyroclast.families.experts import GGUF_EXPERTS, GGUF_SHARED, ExpertsSpec, without_dense
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import LayerSpec


def config(h: Hyperparameters) -> ModelConfig:
    """Logits are divided by their multiplier, whatever the files call it."""
    rope = h.rope if h.flag("rotates", True) else None

    def layer(i: int) -> LayerSpec:
        spec = llama.layer(h, i, scale=h.optional("attention_multiplier"), rope=rope)
        return replace(spec, residual_scale=h.positive("residual_multiplier", 1.0))

    return h.config(
        (layer(i) for i in range(h.n_layers)),
        embedding_scale=h.positive("embedding_multiplier", 1.0),
        logit_scale=1 / h.positive("logits_scaling", 1.0),
    )


_MULTIPLIERS = ("attention_multiplier", "embedding_multiplier", "residual_multiplier")

GRANITE = replace(
    llama.FAMILY,
    name="granite",
    config=config,
    hf_model_type="granite",
    gguf_architecture="granite",
    hf_keys={
        **llama.HF_KEYS,
        **{name: name for name in _MULTIPLIERS},
        "logits_scaling": "logits_scaling",
    },
    gguf_keys={
        **llama.GGUF_KEYS,
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
        "rotates": "rope.scaling.finetuned",
    },
    hf_defaults={**llama.FAMILY.hf_defaults, "attention_multiplier": 1.0},
)


def granite4_config(h: Hyperparameters) -> ModelConfig:
    """The same for a folder of the type that could also have experts or recurrent layers, and has
    none: see granite_hybrid.py."""
    rotates = h.extra.get("position_embedding_type") == "rope"
    return config(replace(h, extra={**h.extra, "rotates": rotates}))


GRANITE4 = replace(
    GRANITE,
    name="granitemoehybrid",
    config=granite4_config,
    hf_model_type="granitemoehybrid",
    gguf_architecture=None,
    hf_tensors={
        name: each.replace("mlp.down_proj", "shared_mlp.output_linear")
        for name, each in llama.HF_TENSORS.items()
        if not name.endswith(("w_gate", "w_up"))
    },
    hf_fused={"model.layers.{i}.shared_mlp.input_linear.weight": ("w_gate", "w_up")},
    hf_keys={
        **{field: key for field, key in GRANITE.hf_keys.items() if field != "ffn_bias"},
        "d_ff": "shared_intermediate_size",
        "position_embedding_type": "position_embedding_type",
    },
)


def granite_moe_config(h: Hyperparameters) -> ModelConfig:
    """Granite's layers with experts, and one more that all tokens share where files have it."""
    dense = config(h)
    experts = ExpertsSpec(
        h.extra.get("n_experts", 8),
        h.extra.get("n_active", 2),
        renormalize=True,
        shared_d_ff=h.extra.get("d_shared", 0),
    )
    return replace(dense, layers=tuple(spec.with_ffn(experts=experts) for spec in dense.layers))


_EXPERTS_KEYS = {"n_experts": "num_local_experts", "n_active": "num_experts_per_tok"}

GRANITE_MOE = replace(
    GRANITE,
    name="granitemoe",
    config=granite_moe_config,
    hf_model_type="granitemoe",
    gguf_architecture="granitemoe",
    hf_tensors=without_dense(GRANITE.hf_tensors)
    | {
        "layers.{i}.w_router": "model.layers.{i}.block_sparse_moe.router.layer.weight",
        "layers.{i}.w_down_experts": "model.layers.{i}.block_sparse_moe.output_linear.weight",
        "layers.{i}.w_down": "model.layers.{i}.shared_mlp.output_linear.weight",
    },
    hf_fused={
        "model.layers.{i}.block_sparse_moe.input_linear.weight": ("w_gate_experts", "w_up_experts"),
        **GRANITE4.hf_fused,
    },
    gguf_tensors=without_dense(GRANITE.gguf_tensors) | GGUF_EXPERTS | GGUF_SHARED,
    hf_keys={
        **{field: key for field, key in GRANITE.hf_keys.items() if field != "ffn_bias"},
        **_EXPERTS_KEYS,
    },
    gguf_keys={
        **GRANITE.gguf_keys,
        "n_experts": "expert_count",
        "n_active": "expert_used_count",
        "d_shared": "expert_shared_feed_forward_length",
    },
)

# Only its folders have the shared expert; GGUF files of both may.
GRANITE_MOE_SHARED = replace(
    GRANITE_MOE,
    name="granitemoeshared",
    hf_model_type="granitemoeshared",
    gguf_architecture=None,
    hf_keys={**GRANITE_MOE.hf_keys, "d_shared": "shared_intermediate_size"},
)
