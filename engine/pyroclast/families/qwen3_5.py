"""Qwen3.5's text model: three layers with the gated delta rule to one with attention, whose result
a gate multiplies.  Its head for predicting further tokens is a layer of the second kind."""

from __future__ import annotations

from dataclasses import replace

from pyroclast.errors import ModelFileError
from pyroclast.families import llama
from pyroclast.families.checks import check_size
from pyroclast.families.config import ModelConfig
from pyroclast.families.draft_head import PRODUCTS
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.layer_spec import LayerSpec, NormSpec
from pyroclast.families.recurrent import GatedDeltaSpec


def _is_recurrent(h: Hyperparameters) -> tuple[bool, ...]:
    """Of each layer; without a list, every full_attention_interval-th has attention."""
    if h.recurrent is not None:
        return h.recurrent
    interval = h.size("attention_interval", 4)
    return tuple((i + 1) % interval != 0 for i in range(h.n_layers))


def _delta(h: Hyperparameters) -> GatedDeltaSpec:
    n_v_heads = h.extra.get("n_v_heads", 32)
    v_head_dim = h.extra.get("v_head_dim", 128)
    if (v_dim := h.extra.get("v_dim")) is not None:  # GGUF has the size of all heads
        check_size("value heads of linear attention", n_v_heads, 1 << 20)
        check_size("values of linear attention", v_dim, 1 << 30)
        if v_dim % n_v_heads:
            raise ModelFileError(
                f"ssm.inner_size must be a multiple of ssm.time_step_rank = {n_v_heads} (the value "
                f"heads), got {v_dim}"
            )
        v_head_dim = v_dim // n_v_heads
    return GatedDeltaSpec(
        n_k_heads=h.extra.get("n_k_heads", 16),
        n_v_heads=n_v_heads,
        k_head_dim=h.extra.get("k_head_dim", 128),
        v_head_dim=v_head_dim,
        kernel=h.extra.get("conv_width", 4),
        norm_eps=h.norm_eps,
        tiled=h.flag("tiled", False),
        log_decay=h.flag("log_decay", True),
    )


def config(h: Hyperparameters) -> ModelConfig:
    """n_layers of both kinds, and the head's one where it is wanted."""
    delta, norm = _delta(h), NormSpec(h.norm_eps, weight_offset=h.norm_offset)

    def layer(i: int, is_recurrent: bool) -> LayerSpec:
        spec = llama.layer(h, i, qk_norm=norm, gate=True)
        return replace(spec, mixer=delta) if is_recurrent else spec

    return h.config(
        [layer(i, kind) for i, kind in enumerate(_is_recurrent(h))],
        draft_layer=layer(h.n_layers, False) if h.flag("draft_head", False) else None,
    )


_HF, _GGUF = "model.layers.{i}.linear_attn.", "blk.{i}."
_HEAD = "model.layers.{i}.mtp."  # as `hf_names` numbers it
# Of attention, whose queries share a tensor with their gates; there are no biases.
_LEFT_OUT = ("wq", "bq", "bk", "bv", "bo", "b_gate", "b_up", "b_down")
_Q_AND_GATE = ("wq", "w_q_gate")


def _without(names: dict[str, str]) -> dict[str, str]:
    return {n: each for n, each in names.items() if n.rpartition(".")[2] not in _LEFT_OUT}


QWEN3_5 = Family(
    name="qwen3_5",
    config=config,
    hf_model_type="qwen3_5_text",
    gguf_architecture="qwen35",
    is_recurrent=True,
    hf_rotary_factor=0.25,
    hf_partial_rotary=True,
    by_head=frozenset(_Q_AND_GATE),
    hf_tensors={
        **_without(llama.HF_TENSORS),
        "layers.{i}.q_norm": "model.layers.{i}.self_attn.q_norm.weight",
        "layers.{i}.k_norm": "model.layers.{i}.self_attn.k_norm.weight",
        "layers.{i}.w_delta_qkv": _HF + "in_proj_qkv.weight",
        "layers.{i}.w_delta_z": _HF + "in_proj_z.weight",
        "layers.{i}.w_delta_b": _HF + "in_proj_b.weight",
        "layers.{i}.w_delta_a": _HF + "in_proj_a.weight",
        "layers.{i}.conv": _HF + "conv1d.weight",
        "layers.{i}.dt_bias": _HF + "dt_bias",
        "layers.{i}.decay": _HF + "A_log",
        "layers.{i}.delta_norm": _HF + "norm.weight",
        "layers.{i}.w_delta_out": _HF + "out_proj.weight",
        "layers.{i}.draft_embd_norm": _HEAD + "pre_fc_norm_embedding.weight",
        "layers.{i}.draft_hidden_norm": _HEAD + "pre_fc_norm_hidden.weight",
        "layers.{i}.draft_output_norm": _HEAD + "norm.weight",
    },
    gguf_tensors={
        **_without(llama.GGUF_TENSORS),
        "layers.{i}.ffn_norm": _GGUF + "post_attention_norm.weight",
        "layers.{i}.q_norm": _GGUF + "attn_q_norm.weight",
        "layers.{i}.k_norm": _GGUF + "attn_k_norm.weight",
        "layers.{i}.w_delta_qkv": _GGUF + "attn_qkv.weight",
        "layers.{i}.w_delta_z": _GGUF + "attn_gate.weight",
        "layers.{i}.w_delta_b": _GGUF + "ssm_beta.weight",
        "layers.{i}.w_delta_a": _GGUF + "ssm_alpha.weight",
        "layers.{i}.conv": _GGUF + "ssm_conv1d.weight",
        "layers.{i}.dt_bias": _GGUF + "ssm_dt.bias",
        "layers.{i}.decay": _GGUF + "ssm_a",
        "layers.{i}.delta_norm": _GGUF + "ssm_norm.weight",
        "layers.{i}.w_delta_out": _GGUF + "ssm_out.weight",
        "layers.{i}.draft_embd_norm": _GGUF + "nextn.enorm.weight",
        "layers.{i}.draft_hidden_norm": _GGUF + "nextn.hnorm.weight",
        "layers.{i}.draft_output_norm": _GGUF + "nextn.shared_head_norm.weight",
    },
    hf_fused={
        "model.layers.{i}.self_attn.q_proj.weight": _Q_AND_GATE,
        _HEAD + "fc.weight": PRODUCTS,
    },
    gguf_fused={
        _GGUF + "attn_q.weight": _Q_AND_GATE,
        _GGUF + "nextn.eh_proj.weight": PRODUCTS,
    },
    hf_keys={
        **{name: key for name, key in llama.HF_KEYS.items() if not name.endswith("bias")},
        "recurrent": "layer_types",
        "attention_interval": "full_attention_interval",
        "conv_width": "linear_conv_kernel_dim",
        "k_head_dim": "linear_key_head_dim",
        "v_head_dim": "linear_value_head_dim",
        "n_k_heads": "linear_num_key_heads",
        "n_v_heads": "linear_num_value_heads",
    },
    gguf_keys={
        **{name: key for name, key in llama.GGUF_KEYS.items() if name != "sliding_window"},
        "recurrent": "attention.recurrent_layers",
        "attention_interval": "full_attention_interval",
        "conv_width": "ssm.conv_kernel",
        "k_head_dim": "ssm.state_size",
        "v_dim": "ssm.inner_size",
        "n_k_heads": "ssm.group_count",
        "n_v_heads": "ssm.time_step_rank",
        "n_draft_layers": "nextn_predict_layers",
    },
    hf_rope_carried={"sections": "mrope_section"},
    hf_defaults={
        "n_kv_heads": 4,
        "head_dim": 256,
        "max_seq_len": 32768,
        "rope_theta": 10000.0,
        "norm_eps": 1e-6,
        "norm_offset": 1.0,
        "tie_embeddings": False,
    },
    gguf_defaults={"tiled": True, "log_decay": False},
    hf_allowed={"attention_bias": (False,)},
)
